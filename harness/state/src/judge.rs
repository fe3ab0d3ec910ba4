//! What a second deploy really did: two captures, less the noise, put down to operations.
//!
//! The rules are those of `ARCHITECTURE.md`, section "Verdicts". S1 was taken before the second deploy, S2 after it,
//! and the control was left alone for as long as that deploy took: what also changes there is nobody's doing.

use std::collections::{BTreeMap, BTreeSet};

use crate::canonical::{explained, is_helper, is_login};
use crate::capture::Capture;
use crate::catching_up::catches_up;
use crate::diff::{Change, ChangeKind, diff};
use crate::entries::{FileKind, Unit};
use crate::network;
use crate::observed::{Observed, Weight};
use crate::own::{self, Own};
use crate::processes;
use crate::sections::Section;
use crate::witness::{Became, Witnessed, Written};

/// What the deploy tool said about an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did something.
    Changed,
    /// It had nothing to do.
    Unchanged,
    /// It ended in an error.
    Failed,
    /// It ran; the tool never says whether that changed anything.
    Ran,
}

/// When an operation ran on this machine: nanoseconds since 1970 on the machine's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Place in the deploy, from 1.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// File and line in the servers repo, where the tool tells.
    pub place: Option<String>,
    /// Its beginning.
    pub start: i64,
    /// Its end.
    pub end: i64,
    /// What the tool said.
    pub outcome: Outcome,
}

/// One thing that the second deploy did, or that could not be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What it is.
    pub kind: Observed,
    /// Where the machine differs; absent for what is no difference.
    pub section: Option<Section>,
    /// Path, unit, operation.
    pub subject: String,
    /// One sentence.
    pub summary: String,
    /// Number of the operation that did it.
    pub window: Option<usize>,
    /// Before and after.
    pub evidence: Vec<String>,
}

/// All that the captures say about the second deploy on one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The worst first.
    pub observations: Vec<Observation>,
    /// What the control showed too, in words.
    pub noise: Vec<String>,
    /// What was left out, by reason: how many.
    pub left_out: BTreeMap<String, usize>,
}

/// How far the two clocks may be apart after they were compared: half a round trip over an emulated network.
const CLOCK_ERROR: i64 = 60_000_000;
/// How much earlier than the change itself a ctime may be: a tick of Debian's kernels.
const TICK: i64 = 4_000_000;

/// How long after a write systemd starts what a path unit activates: a loaded machine takes its time.
const TRIGGER: i64 = 1_000_000_000;

/// Two captures of a machine that was left alone between them, for as long as the second deploy took: a twin of the
/// deployed machine, or that machine itself afterwards.
#[derive(Debug, Clone, Copy)]
pub struct Control<'a> {
    /// When it was left alone.
    pub before: &'a Capture,
    /// What had become of it.
    pub after: &'a Capture,
}

/// A deploy between two captures, on the machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct Between<'a> {
    /// When its operations ran.
    pub windows: &'a [Window],
    /// When it started.
    pub began: i64,
    /// Who wrote meanwhile, where that was watched.
    pub witness: Option<&'a Witnessed>,
}

/// Compares `s1` with `s2`.
pub fn judge(s1: &Capture, s2: &Capture, control: Option<Control<'_>>, deploy: Between<'_>) -> Judgement {
    let Between { windows, began, witness } = deploy;
    let out = Judgement::default();
    let mut judge = Judge { s1, s2, control, windows, began, witness, suspects: BTreeSet::new(), out };
    judge.completeness();
    let timeless = judge.changes();
    judge.in_memory();
    judge.timeless(&timeless);
    judge.restarts();
    judge.stale();
    judge.reports();
    let mut out = judge.out;
    out.observations.sort_by(|a, b| b.kind.weight().cmp(&a.kind.weight()).then_with(|| a.window.cmp(&b.window)));
    out
}

/// Whether nothing between `s1` and `s2` counts against anybody, noise or not: then there is nothing that a control could
/// excuse.
pub fn is_without_effect(s1: &Capture, s2: &Capture, deploy: Between<'_>) -> bool {
    let still = Control { before: s2, after: s2 };
    judge(s1, s2, Some(still), deploy).observations.iter().all(|seen| seen.kind.weight() == Weight::Info)
}

struct Judge<'a> {
    s1: &'a Capture,
    s2: &'a Capture,
    control: Option<Control<'a>>,
    windows: &'a [Window],
    began: i64,
    witness: Option<&'a Witnessed>,
    /// Operations that may have made a change of which no time is known.
    suspects: BTreeSet<usize>,
    out: Judgement,
}

impl<'a> Judge<'a> {
    fn observe(&mut self, kind: Observed, subject: &str, summary: String, window: Option<usize>) {
        let (subject, evidence) = (subject.to_owned(), Vec::new());
        self.out.observations.push(Observation { kind, section: None, subject, summary, window, evidence });
    }

    fn completeness(&mut self) {
        let captures = [Some(self.s1), Some(self.s2), self.control.map(|control| control.after)];
        let gaps: BTreeSet<(Section, String)> = captures
            .into_iter()
            .flatten()
            .flat_map(|capture| capture.gaps.iter().map(|gap| (gap.section, gap.reason.clone())))
            .collect();
        for (section, reason) in gaps {
            let text = format!("{section} could not be read whole: {reason}");
            self.observe(Observed::Incomplete, section.name(), text, None);
        }
        for section in [Section::Files, Section::Units] {
            if self.s2.count(section) == 0 {
                let text = format!("the capture holds no {section} at all");
                self.observe(Observed::Incomplete, section.name(), text, None);
            }
        }
        // A table that one capture read and the other did not is not compared either.
        let notes = [self.s1, self.s2].into_iter().flat_map(|capture| &capture.notes);
        let of_databases = notes.filter(|note| note.section == Section::Databases);
        let unread: BTreeSet<String> = of_databases.map(|note| note.text.clone()).collect();
        if !unread.is_empty() {
            let text = "not everything in databases was compared".to_owned();
            self.observe(Observed::NotCompared, Section::Databases.name(), text, None);
            if let Some(observation) = self.out.observations.last_mut() {
                observation.evidence = unread.into_iter().collect();
            }
        }
        if self.control.is_none() {
            let text = "nobody measured what changes by itself".to_owned();
            self.observe(Observed::NoControl, "control", text, None);
        }
    }

    /// O: what differs, less the noise, less what is explained.
    fn changes(&mut self) -> Vec<Change> {
        let mut timeless = Vec::new();
        let noise = self.noise();
        let changes = diff(self.s1, self.s2);
        for change in changes.iter().cloned() {
            let unit = self.s2.units.get(&change.subject).or_else(|| self.s1.units.get(&change.subject));
            let socket = self.s2.sockets.get(&change.subject).or_else(|| self.s1.sockets.get(&change.subject));
            let own = Own::of(&change, self.witness);
            let when = own.map(|own| self.time_of(own.written())).or_else(|| self.when(&change));
            if change.kind != ChangeKind::Changed && self.is_partial(change.section) {
                *self.out.left_out.entry("in a section that could not be read whole".to_owned()).or_default() += 1;
            } else if let Some(reason) = catches_up(&change, &changes, (self.s1, self.s2)) {
                *self.out.left_out.entry(reason.to_owned()).or_default() += 1;
            } else if let Some(Own::Left(written)) = own {
                self.left_behind(written);
            } else if let Some(Own::Did(_)) = own {
                self.change(&change, when);
            } else if let Some(reason) =
                self.told_elsewhere(&change, &changes).or_else(|| explained(&change, unit, socket))
            {
                *self.out.left_out.entry(reason.to_owned()).or_default() += 1;
            } else if when.is_some_and(|when| when < self.began - CLOCK_ERROR) {
                *self.out.left_out.entry("changed before the second deploy began".to_owned()).or_default() += 1;
            } else if is_noise(&change, &noise) {
                self.out.noise.push(format!("{} {} {} by itself", change.section, change.subject, change.kind));
            } else if when.is_none() {
                timeless.push(change);
            } else {
                self.change(&change, when);
            }
        }
        timeless
    }

    /// When it was done; of what was left behind, when the operation ran that left it.
    fn time_of(&self, written: &Written) -> i64 {
        if self.window_at(written.last).is_some() { written.last } else { written.began }
    }

    /// What the deploy left where nothing outlives a reboot, and no capture looks.
    fn in_memory(&mut self) {
        let Some(witness) = self.witness else { return };
        let is_captured = |path: &str| self.s1.files.get(path).is_some() || self.s2.files.get(path).is_some();
        let left = witness.of_deploy().filter(|written| own::is_in_memory(written) && !is_captured(&written.path));
        for written in left.cloned().collect::<Vec<_>>() {
            if written.became == Became::New && own::is_temporary(&written.path) {
                self.left_behind(&written);
                continue;
            }
            let window = self.window_at(self.time_of(&written));
            let silent = window.is_some_and(|window| window.outcome == Outcome::Unchanged);
            let kind = if silent { Observed::SilentChange } else { Observed::RealChange };
            let verb = if written.became == Became::New { "added" } else { "changed" };
            let text = format!("the second deploy {verb} `{}`, which lives in memory", written.path);
            let window = window.map(|window| window.number);
            self.observe(kind, &written.path, text, window);
            self.tell_program(&written);
        }
    }

    fn left_behind(&mut self, written: &Written) {
        let window = self.window_at(self.time_of(written)).map(|window| window.number);
        let text = format!("the second deploy left `{}` behind", written.path);
        self.observe(Observed::LeftBehind, &written.path, text, window);
        self.tell_program(written);
    }

    fn tell_program(&mut self, written: &Written) {
        if let Some(observation) = self.out.observations.last_mut().filter(|_| !written.program.is_empty()) {
            observation.evidence.push(format!("written by {}", written.program));
        }
    }

    /// What is left out since something else tells of it.
    fn told_elsewhere(&self, change: &Change, changes: &[Change]) -> Option<&'static str> {
        match change.section {
            Section::Processes => processes::explained(change, self.s1, self.s2),
            _ => network::explained(change, changes),
        }
    }

    /// Whether what seems to be new or gone may only not have been read. Of files the gap names the place.
    fn is_partial(&self, section: Section) -> bool {
        let gaps = || [self.s1, self.s2].into_iter().flat_map(|capture| &capture.gaps);
        section != Section::Files && gaps().any(|gap| gap.section == section)
    }

    /// What the control shows, down to the attribute: a log that grows by itself does not excuse its new owner.
    fn noise(&self) -> BTreeMap<(Section, String), BTreeSet<&'static str>> {
        let changes = self.control.map(|control| diff(control.before, control.after)).unwrap_or_default();
        let attributes = |change: &Change| change.differences.iter().map(|d| d.attribute).collect();
        changes.into_iter().map(|change| ((change.section, change.subject.clone()), attributes(&change))).collect()
    }

    /// Changes of which the machine does not record when they were made: rules of the kernel, say. If one operation
    /// alone reports a change that nothing else shows, it is this one.
    fn timeless(&mut self, changes: &[Change]) {
        let rewritten = self.rewritten();
        let idle = |w: &&Window| {
            let told =
                self.out.observations.iter().any(|o| o.window == Some(w.number) && o.kind.weight() == Weight::Fails);
            w.outcome == Outcome::Changed && !told && !rewritten.contains_key(&w.number)
        };
        let candidates: Vec<&Window> = self.windows.iter().filter(idle).collect();
        for change in changes {
            let able = self.able(change.section);
            match if able.is_empty() { &candidates } else { &able }[..] {
                [only] => self.change(change, Some((only.start + only.end) / 2)),
                [] => self.change(change, None),
                ref several => self.one_of(change, several),
            }
        }
    }

    /// Operations during which the deploy ran a program that makes such changes.
    fn able(&self, section: Section) -> Vec<&'a Window> {
        let tools = own::tools_of(section);
        let times = self.witness.map(|witness| witness.times_of(tools)).unwrap_or_default();
        let numbers: BTreeSet<usize> =
            times.into_iter().filter_map(|time| self.window_at(time)).map(|window| window.number).collect();
        self.windows.iter().filter(|window| numbers.contains(&window.number)).collect()
    }

    fn one_of(&mut self, change: &Change, several: &[&Window]) {
        let names: Vec<String> = several.iter().map(|w| format!("`{}`", w.name)).collect();
        self.suspects.extend(several.iter().filter(|w| w.outcome == Outcome::Changed).map(|w| w.number));
        let reported = several.iter().any(|w| w.outcome != Outcome::Unchanged);
        self.changed(change, None, reported);
        if let Some(observation) = self.out.observations.last_mut() {
            observation.evidence.push(format!("one of these operations did it: {}", names.join(", ")));
        }
    }

    fn change(&mut self, change: &Change, when: Option<i64>) {
        let window = when.and_then(|when| self.window_at(when));
        // A tool that never speaks of changes keeps none silent.
        let speechless = || !self.windows.is_empty() && self.windows.iter().all(|w| w.outcome == Outcome::Ran);
        let reported = match window {
            // A failure is no silence either.
            Some(window) => window.outcome != Outcome::Unchanged,
            None => speechless(),
        };
        self.changed(change, window.map(|window| window.number), reported);
    }

    /// `reported`: whether the tool said that something changed.
    fn changed(&mut self, change: &Change, window: Option<usize>, reported: bool) {
        let kind = if reported { Observed::RealChange } else { Observed::SilentChange };
        let noun = change.section.noun();
        let what = if noun.is_empty() { String::new() } else { format!("{noun} ") };
        let silent = if reported { "" } else { ", and the deploy tool did not say so" };
        let summary = format!("the second deploy {} {what}`{}`{silent}", verb(change), change.subject);
        let evidence = change.differences.iter().map(|d| evidence(d.attribute, &d.before, &d.after)).collect();
        self.out.observations.push(Observation {
            kind,
            section: Some(change.section),
            subject: change.subject.clone(),
            summary,
            window,
            evidence,
        });
    }

    /// When the change happened, as far as the machine recorded it.
    fn when(&self, change: &Change) -> Option<i64> {
        let ctime = |path: &str| self.s2.files.get(path).map(|file| file.ctime);
        let parent = |path: &str| {
            path.rsplit_once('/').map(|(parent, _)| if parent.is_empty() { "/" } else { parent }.to_owned())
        };
        match change.section {
            Section::Files if change.kind == ChangeKind::Removed => parent(&change.subject).and_then(|p| ctime(&p)),
            Section::Files => ctime(&change.subject),
            Section::Units => {
                self.s2.units.get(&change.subject).map(|unit| unit.since).filter(|since| *since > self.began)
            }
            Section::Processes => processes::began(self.s1, self.s2, &change.subject),
            // A file that is as it was says nothing about when a value beside it changed.
            section => {
                let source = [self.s2, self.s1].into_iter().find_map(|s| s.source(section, &change.subject))?;
                ctime(source).filter(|new| self.s1.files.get(source).is_none_or(|old| old.ctime != *new))
            }
        }
    }

    /// Operations that may have written what a path unit watches: systemd acts a moment after it, when the next one may
    /// run already.
    fn triggers(&self, when: i64) -> Vec<&Window> {
        let changed = self.windows.iter().filter(|window| window.outcome != Outcome::Unchanged);
        changed.filter(|window| window.start <= when && when <= window.end + TRIGGER).collect()
    }

    fn window_at(&self, when: i64) -> Option<&Window> {
        // Operations of a script follow each other within a tick of the kernel's clock, at whose beginning a ctime lies.
        let script = !self.windows.is_empty() && self.windows.iter().all(|w| w.outcome == Outcome::Ran);
        window_at(self.windows, if script { when + TICK } else { when })
    }

    /// R: units that began anew.
    fn restarts(&mut self) {
        if self.s1.header.boot_id != self.s2.header.boot_id {
            let text = "the machine was rebooted during the second deploy".to_owned();
            // The first unit of the new boot starts while the operation waits for the machine.
            let booted = self.s2.units.values().map(|unit| unit.since).filter(|since| *since > self.began).min();
            let window = booted.and_then(|when| self.window_at(when)).map(|window| window.number);
            self.observe(Observed::Disruptive, "boot", text, window);
            return;
        }
        let began_anew = |before: &Capture, after: &Capture| -> BTreeSet<String> {
            let anew = |unit: &&Unit| {
                before.units.get(&unit.name).is_some_and(|old| old.invocation != unit.invocation)
                    && !unit.invocation.is_empty()
            };
            after.units.values().filter(anew).map(|unit| unit.name.clone()).collect()
        };
        let alone = self.control.map(|control| began_anew(control.before, control.after)).unwrap_or_default();
        for name in began_anew(self.s1, self.s2) {
            let (old, new) = (&self.s1.units[&name], &self.s2.units[&name]);
            if is_login(&name) {
                continue;
            }
            if alone.contains(&name) {
                self.out.noise.push(format!("unit {name} began anew by itself"));
                continue;
            }
            let triggers = if new.triggered_by.contains(".path") { self.triggers(new.since) } else { Vec::new() };
            let window = match triggers[..] {
                [] => self.started(new.since).map(|window| window.number),
                [only] => Some(only.number),
                _ => None,
            };
            let two: Vec<String> = triggers.iter().map(|window| format!("`{}`", window.name)).collect();
            let runs = |unit: &Unit| matches!(unit.active.as_str(), "active" | "reloading" | "failed");
            // A job that ran once more interrupts nobody; a running service that began anew does, and a oneshot that
            // remains active took back what it had done.
            let job = old.service_type == "oneshot" && old.active != "active" && new.active != "failed";
            let (kind, text) = if runs(old) && !job && !is_helper(new) {
                (Observed::Disruptive, format!("the second deploy restarted `{name}`"))
            } else {
                (Observed::UnitRan, format!("`{name}` ran once more during the second deploy"))
            };
            self.observe(kind, &name, text, window);
            if let Some(observation) = self.out.observations.last_mut() {
                observation.evidence.push(evidence("InvocationID", &old.invocation, &new.invocation));
                if two.len() > 1 {
                    observation.evidence.push(format!("one of these operations did it: {}", two.join(", ")));
                }
            }
        }
        self.new_processes();
    }

    /// The operation during which something was started, or which left a command that asked for it later.
    fn started(&self, when: i64) -> Option<&Window> {
        self.window_at(when).or_else(|| {
            let began = self.witness?.asked_before(when)?;
            self.window_at(began)
        })
    }

    /// Processes that began anew while their unit ran on, or that belong to none.
    fn new_processes(&mut self) {
        let alone = self.control.map(|control| processes::began_anew(control.before, control.after));
        let alone: BTreeSet<String> = alone.into_iter().flatten().map(|anew| anew.subject).collect();
        for anew in processes::began_anew(self.s1, self.s2) {
            if alone.contains(&anew.subject) {
                self.out.noise.push(format!("process {} began anew by itself", anew.subject));
                continue;
            }
            let window = self.window_at(anew.since).map(|window| window.number);
            let text = format!("the second deploy started the process `{}` anew", anew.program);
            self.observe(Observed::Disruptive, &anew.subject, text, window);
            if let Some(observation) = self.out.observations.last_mut() {
                observation.evidence.push(evidence("process", &anew.pids.0, &anew.pids.1));
            }
        }
    }

    /// Already at S1: units that run with what the deploy has replaced since.
    fn stale(&mut self) {
        for unit in self.s1.units.values().filter(|unit| !unit.stale.is_empty() && !is_login(&unit.name)) {
            let text =
                format!("after the first deploy `{}` runs with something older than what was deployed", unit.name);
            self.observe(Observed::Stale, &unit.name, text, None);
            if let Some(observation) = self.out.observations.last_mut() {
                observation.evidence.clone_from(&unit.stale);
            }
        }
    }

    /// What the tool reported, held against what the machine shows.
    fn reports(&mut self) {
        let rewritten = self.rewritten();
        for window in self.windows.iter().filter(|window| window.outcome == Outcome::Changed) {
            let did = |o: &Observation| o.window == Some(window.number) && o.kind.weight() == Weight::Fails;
            if self.out.observations.iter().any(did) {
                continue;
            }
            if self.suspects.contains(&window.number) {
                continue;
            }
            let (name, number) = (window.name.clone(), Some(window.number));
            match rewritten.get(&window.number) {
                Some(paths) => {
                    let text = format!("operation `{name}` wrote {} files with the content they had", paths.len());
                    self.observe(Observed::Rewrite, &name, text, number);
                    if let Some(observation) = self.out.observations.last_mut() {
                        observation.evidence = paths.iter().take(10).cloned().collect();
                    }
                }
                None => {
                    let text = format!("operation `{name}` reports a change, and none of what was compared changed");
                    self.observe(Observed::FalseChange, &name, text, number);
                }
            }
        }
    }

    /// W: files written in the second deploy that ended as they were, by operation.
    fn rewritten(&self) -> BTreeMap<usize, Vec<String>> {
        let mut by_window: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (path, new) in self.s2.files.iter().filter(|(_, file)| file.kind == FileKind::File) {
            let old = self.s1.files.get(path);
            let rewritten = old.is_some_and(|old| old.ctime != new.ctime && old.digest == new.digest);
            if let Some(window) = rewritten.then(|| self.window_at(new.ctime)).flatten() {
                by_window.entry(window.number).or_default().push(path.clone());
            }
        }
        by_window
    }
}

/// The operation that ran at this time. At the seams, where the clocks' error leaves two, the one that says it changed
/// something. One that says it changed nothing is named only for what happened between its start and its end: before
/// the first operation a tool gathers facts, and runs what stands in the deploy as plain code.
pub(crate) fn window_at(windows: &[Window], when: i64) -> Option<&Window> {
    let distance = |w: &Window| (w.start - when).max(when - w.end).max(0);
    let reach = |w: &Window| if w.outcome == Outcome::Unchanged { 0 } else { CLOCK_ERROR };
    let near = windows.iter().filter(|w| distance(w) <= reach(w));
    near.min_by_key(|w| (w.outcome != Outcome::Changed, distance(w)))
}

pub(crate) fn is_noise(change: &Change, noise: &BTreeMap<(Section, String), BTreeSet<&'static str>>) -> bool {
    let also = noise.get(&(change.section, change.subject.clone()));
    also.is_some_and(|also| change.differences.iter().all(|d| also.contains(d.attribute)))
}

pub(crate) fn verb(change: &Change) -> &'static str {
    match change.kind {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Changed => "changed",
    }
}

pub(crate) fn evidence(attribute: &str, before: &str, after: &str) -> String {
    let shown = |value: &str| match value {
        "" => "nothing".to_owned(),
        hash if hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit()) => hash[..12].to_owned(),
        value => value.to_owned(),
    };
    format!("{attribute}: {} -> {}", shown(before), shown(after))
}

#[cfg(test)]
mod sections;
#[cfg(test)]
mod tests;
