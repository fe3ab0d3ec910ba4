//! What the engine tells while it works. Only the command line turns it into text on a terminal.

use std::sync::Arc;

use redrill_model::{Stage, StageReport};
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;

use crate::redact::Redactor;

/// One thing that happened. Texts hold no secrets.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The drill began.
    Started {
        /// Scenario's name.
        scenario: String,
        /// Run directory.
        run_dir: String,
    },
    /// A stage began.
    StageStarted {
        /// Which.
        #[serde(flatten)]
        stage: Stage,
    },
    /// What a stage does now.
    Progress {
        /// In a few words.
        text: String,
    },
    /// A line of a deploy tool.
    Output {
        /// The line.
        text: String,
    },
    /// A check turned green or stayed red.
    Check {
        /// Name.
        name: String,
        /// Whether it holds.
        holds: bool,
        /// Seconds until that was known.
        seconds: f64,
    },
    /// A stage ended.
    StageEnded {
        /// How.
        #[serde(flatten)]
        report: StageReport,
    },
}

/// Where events go. Nobody listening is no reason to stop.
#[derive(Debug, Clone)]
pub struct Events {
    sender: UnboundedSender<Event>,
    redactor: Arc<Redactor>,
}

impl Events {
    /// Events for this receiver, cleaned of secrets.
    pub fn new(sender: UnboundedSender<Event>, redactor: Arc<Redactor>) -> Self {
        Self { sender, redactor }
    }

    pub(crate) fn send(&self, event: Event) {
        let _ = self.sender.send(self.clean(event));
    }

    /// Lines of a tool were cleaned together with those around them; all else is cleaned here, whoever sends it.
    fn clean(&self, mut event: Event) -> Event {
        let text = match &mut event {
            Event::Started { scenario: text, .. } | Event::Progress { text } | Event::Check { name: text, .. } => text,
            Event::StageEnded { report } => &mut report.note,
            Event::StageStarted { .. } | Event::Output { .. } => return event,
        };
        *text = self.redactor.clean(text);
        event
    }

    pub(crate) fn progress(&self, text: &str) {
        self.send(Event::Progress { text: text.to_owned() });
    }

    pub(crate) fn shared_redactor(&self) -> Arc<Redactor> {
        Arc::clone(&self.redactor)
    }

    pub(crate) fn redactor(&self) -> &Redactor {
        &self.redactor
    }
}
