//! Follows a drill's events: as a live terminal, as plain lines with times, or not at all. Every event is also written
//! to `events.jsonl` in the run directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use redrill_engine::Event;
use redrill_model::{StageReport, Status};
use tokio::sync::mpsc::UnboundedReceiver;

use super::style::{self, Colours};
use super::{seconds, story};

/// How the story is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// What runs now stands in the last line, and moves.
    Live,
    /// Lines with times.
    Plain,
    /// Not at all.
    Quiet,
}

impl Mode {
    /// Live where standard error is a terminal.
    pub(crate) fn of_terminal() -> Self {
        if std::io::stderr().is_terminal() { Self::Live } else { Self::Plain }
    }
}

/// Tells the story of one drill.
pub(crate) struct Listener {
    mode: Mode,
    style: Colours,
    log: Option<File>,
    /// Seconds by stage, the last time.
    last_time: BTreeMap<String, f64>,
    bar: ProgressBar,
}

impl Listener {
    pub(crate) fn new(mode: Mode, run_dir: &Path, last_time: BTreeMap<String, f64>) -> Self {
        let bar = if mode == Mode::Live { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        let template = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}");
        bar.set_style(template.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let log = File::create(run_dir.join("events.jsonl")).ok();
        Self { mode, style: style::for_stderr(), log, last_time, bar }
    }

    /// Until the drill is over.
    pub(crate) async fn listen(mut self, mut events: UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            self.write(&event);
            match self.mode {
                Mode::Quiet => {}
                Mode::Plain => self.plain(&event),
                Mode::Live => self.live(&event),
            }
        }
        self.bar.finish_and_clear();
    }

    fn write(&mut self, event: &Event) {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            time: String,
            #[serde(flatten)]
            event: &'a Event,
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        if let (Some(log), Ok(line)) = (&mut self.log, serde_json::to_string(&Line { time, event })) {
            // The log is a convenience: a full disk ends the drill elsewhere, and with a better message.
            let _ = writeln!(log, "{line}");
        }
    }

    fn plain(&self, event: &Event) {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let line = match event {
            Event::Started { scenario, run_dir } => format!("drill of {scenario}, run directory {run_dir}"),
            Event::StageStarted { stage } => format!("{} ...{}", stage.name(), self.took_last_time(*stage)),
            Event::Progress { text } => format!("  {text}"),
            Event::Output { text } if text.is_empty() => return,
            Event::Output { text } => format!("  | {text}"),
            Event::Check { name, holds, seconds: took } => check(*holds, name, *took, style::PLAIN),
            Event::StageEnded { report } => ended(report, style::PLAIN),
        };
        story(&format!("{} {line}", &time[11..19]));
    }

    fn live(&self, event: &Event) {
        match event {
            Event::Started { scenario, run_dir } => {
                self.bar.println(format!("drill of {}, run directory {run_dir}", self.style.bold(scenario)));
            }
            Event::StageStarted { stage } => {
                self.bar.reset();
                self.bar.set_prefix(format!("{}{}", stage.name(), self.took_last_time(*stage)));
                self.bar.set_message(String::new());
                self.bar.enable_steady_tick(Duration::from_millis(120));
            }
            Event::Progress { text } => self.bar.set_message(text.clone()),
            Event::Output { text } if text.is_empty() => {}
            Event::Output { text } => {
                self.bar.println(self.style.dim(&format!("  | {text}")));
                self.bar.set_message(text.trim().to_owned());
            }
            Event::Check { name, holds, seconds: took } => self.bar.println(check(*holds, name, *took, self.style)),
            Event::StageEnded { report } => {
                self.bar.disable_steady_tick();
                self.bar.println(ended(report, self.style));
            }
        }
    }

    fn took_last_time(&self, stage: redrill_model::Stage) -> String {
        let last = self.last_time.get(stage.name()).filter(|last| **last >= 1.0);
        last.map(|last| format!(" (last time {})", seconds(*last))).unwrap_or_default()
    }
}

fn check(holds: bool, name: &str, took: f64, style: Colours) -> String {
    let mark = if holds { style.good("holds") } else { style.bad("FAILS") };
    format!("  {mark} {name} ({})", seconds(took))
}

fn ended(report: &StageReport, style: Colours) -> String {
    let mark = match report.status {
        Status::Done => style.good("done"),
        Status::Failed => style.bad("FAILED"),
        Status::Unknown => style.open("unknown"),
        Status::NotRun => return style.dim(&format!("not run: {}", report.stage.name())),
    };
    let note = if report.note.is_empty() { String::new() } else { format!(": {}", report.note) };
    format!("{mark} {} in {}{note}", report.stage.name(), seconds(report.seconds))
}
