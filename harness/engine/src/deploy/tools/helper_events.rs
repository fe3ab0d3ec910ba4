//! What the helpers in pyinfra and Ansible wrote down while the tool worked: JSON, one object a line.
//!
//! ```text
//! {"e":"begin","v":1,"tool":"ansible","version":"2.19.4"}
//! {"e":"operation","op":KEY,"name":...,"place":"site.yml:5","optional":false,"depends":false,"number":2}
//! {"e":"start","t":NANOSECONDS,"op":KEY,"host":...}
//! {"e":"item","t":...,"op":KEY,"host":...,"outcome":"changed","item":"a"}      an item of a loop, before its `end`
//! {"e":"end","t":...,"op":KEY,"host":...,"outcome":"changed"}
//! {"e":"cut","number":3}  {"e":"pause","number":1}  {"e":"unmatched","name":...,"place":...}  {"e":"over"}
//! ```

use std::collections::BTreeMap;

use redrill_model::OperationRef;
use redrill_state::{Outcome, Window};
use serde::Deserialize;

use super::{Boundary, HostWindow};

/// The form of the events that we know.
const FORM: u64 = 1;

/// Where an operation is said to run that leaves the machines alone.
pub(super) const CONTROLLER: &str = "localhost";

/// What a tool said about an operation on a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Said {
    Changed,
    #[default]
    Unchanged,
    Failed,
    /// It failed where its author allows it.
    Ignored,
    /// The tool itself left it out.
    Skipped,
    /// The host could not be reached.
    Unreachable,
    /// The tool says nothing about changes.
    Ran,
}

impl Said {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Failed | Self::Ignored | Self::Unreachable => "failed",
            Self::Skipped => "skipped",
            Self::Ran => "ran",
        }
    }

    fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Changed => Some(Outcome::Changed),
            Self::Unchanged => Some(Outcome::Unchanged),
            Self::Failed | Self::Ignored => Some(Outcome::Failed),
            Self::Skipped | Self::Unreachable => None,
            Self::Ran => Some(Outcome::Ran),
        }
    }
}

/// An operation, or one item of it, on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Execution {
    /// Place in the run, from 1; items of a loop have numbers of their own.
    pub(super) number: usize,
    /// The operation's, as [`Boundary`] counts.
    pub(super) boundary: usize,
    pub(super) name: String,
    pub(super) place: Option<String>,
    pub(super) item: Option<String>,
    /// Inventory host.
    pub(super) host: String,
    /// Where it ran, if elsewhere.
    pub(super) on: Option<String>,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) said: Said,
    /// It may rightly be absent from another run.
    pub(super) optional: bool,
    /// What could keep it from another run nevertheless, in words.
    pub(super) condition: Option<String>,
    pub(super) depends: bool,
    /// It did something on the controller, outside every machine.
    pub(super) local: bool,
    /// It only looks or speaks by nature.
    pub(super) looks: bool,
    pub(super) output: Vec<String>,
    pub(super) hidden_error: Option<String>,
}

impl Execution {
    pub(super) fn window(&self) -> Option<HostWindow> {
        let window = Window {
            number: self.number,
            name: self.name.clone(),
            place: self.place.clone(),
            start: self.start,
            end: self.end,
            outcome: self.said.outcome()?,
        };
        let host = self.place_of_work().unwrap_or(&self.host).to_owned();
        Some(HostWindow { host, window, item: self.item.clone() })
    }

    /// Where it ran, if elsewhere than on its host.
    pub(super) fn place_of_work(&self) -> Option<&str> {
        self.on.as_deref().or(self.local.then_some(CONTROLLER))
    }

    pub(super) fn reference(&self) -> OperationRef {
        let Self { number, name, place, item, .. } = self;
        OperationRef { number: *number, name: name.clone(), place: place.clone(), item: item.clone() }
    }
}

/// Where a run could be cut.
pub(super) fn boundaries(executions: &[Execution]) -> Vec<Boundary> {
    let mut by_number = BTreeMap::new();
    for execution in executions.iter().filter(|execution| execution.boundary > 0) {
        by_number.entry(execution.boundary).or_insert_with(|| Boundary {
            number: execution.boundary,
            name: execution.name.clone(),
            place: execution.place.clone(),
            depends: execution.depends,
        });
    }
    by_number.into_values().collect()
}

/// Everything that a helper wrote.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Version of the tool; absent if the helper never came to speak.
    pub(super) version: Option<String>,
    pub(super) executions: Vec<Execution>,
    /// Begun and not ended when the events end: name and host.
    pub(super) unfinished: Option<(OperationRef, String)>,
    /// Plays that matched no hosts: name and place.
    pub(super) unmatched: Vec<String>,
    /// The tool came to its own end.
    pub(super) over: bool,
    pub(super) cut: Option<usize>,
    /// Numbers of the pauses that it came to, in this order.
    pub(super) paused: Vec<usize>,
    /// Every operation that was announced, by name, each once and in order.
    pub(super) names: Vec<String>,
    /// How many changes the tool itself counts at its end, by host.
    pub(super) changed: BTreeMap<String, usize>,
    /// What makes the events worthless.
    pub(super) broken: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    e: String,
    v: Option<u64>,
    version: Option<String>,
    t: Option<i64>,
    op: Option<String>,
    host: Option<String>,
    name: Option<String>,
    place: Option<String>,
    number: Option<usize>,
    #[serde(default)]
    optional: bool,
    condition: Option<String>,
    #[serde(default)]
    depends: bool,
    outcome: Option<Said>,
    item: Option<String>,
    on: Option<String>,
    #[serde(default)]
    local: bool,
    #[serde(default)]
    looks: bool,
    #[serde(default)]
    output: Vec<String>,
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    swallows: bool,
    #[serde(default)]
    stats: BTreeMap<String, Counts>,
}

#[derive(Deserialize)]
struct Counts {
    changed: usize,
}

/// What is known of an operation while its events come.
#[derive(Default, Clone)]
struct Operation {
    template: Execution,
    /// By host: when it began, or its last item ended; and how many items have.
    open: BTreeMap<String, (i64, usize)>,
}

/// Reads the events. A line that is none ends the reading: what comes after it means nothing.
pub(super) fn read(text: &str) -> Told {
    let mut reading = Reading::default();
    for (number, line) in text.lines().enumerate() {
        let known = serde_json::from_str::<Line>(line).map_err(|error| error.to_string());
        if let Err(why) = known.and_then(|line| reading.line(line)) {
            // A kill cuts the last line: what came before it stands.
            reading.told.broken = Some(format!("line {} of the tool's events: {why}", number + 1));
            break;
        }
    }
    reading.finish()
}

#[derive(Default)]
struct Reading {
    told: Told,
    operations: BTreeMap<String, Operation>,
    /// Numbers of operations and of their items.
    numbers: BTreeMap<(String, usize), usize>,
    started: usize,
}

impl Reading {
    fn line(&mut self, line: Line) -> Result<(), String> {
        match line.e.as_str() {
            "begin" if line.v == Some(FORM) => self.told.version = line.version,
            "begin" => return Err(format!("form {:?} is unknown", line.v)),
            "operation" => self.announced(line)?,
            "start" => self.began(line)?,
            "item" | "end" => self.ended(line)?,
            "cut" => self.told.cut = line.number,
            "pause" => self.told.paused.extend(line.number),
            "unmatched" => {
                let place = line.place.map(|place| format!(" ({place})")).unwrap_or_default();
                self.told.unmatched.push(format!("`{}`{place}", line.name.unwrap_or_default()));
            }
            "over" => {
                self.told.over = true;
                self.told.changed = line.stats.into_iter().map(|(host, counts)| (host, counts.changed)).collect();
            }
            other => return Err(format!("`{other}` is unknown")),
        }
        Ok(())
    }

    fn announced(&mut self, line: Line) -> Result<(), String> {
        let key = line.op.ok_or("an operation without a key")?;
        let operation = self.operations.entry(key).or_default();
        operation.template = Execution {
            boundary: line.number.unwrap_or(operation.template.boundary),
            name: line.name.unwrap_or_default().trim().to_owned(),
            place: line.place,
            optional: line.optional,
            condition: line.condition,
            depends: line.depends,
            ..Execution::default()
        };
        let name = &operation.template.name;
        if !self.told.names.contains(name) {
            self.told.names.push(name.clone());
        }
        Ok(())
    }

    fn began(&mut self, line: Line) -> Result<(), String> {
        let (key, host, time) = (line.op.ok_or("no key")?, line.host.ok_or("no host")?, line.t.ok_or("no time")?);
        let operation = self.operations.get_mut(&key).ok_or("it starts what was not announced")?;
        operation.template.boundary = line.number.unwrap_or(operation.template.boundary);
        operation.open.insert(host, (time, 0));
        self.number(&key, 0);
        Ok(())
    }

    fn number(&mut self, key: &str, item: usize) -> usize {
        let next = self.started + 1;
        let number = *self.numbers.entry((key.to_owned(), item)).or_insert(next);
        self.started = self.started.max(number);
        number
    }

    fn ended(&mut self, line: Line) -> Result<(), String> {
        let (key, host, end) = (line.op.ok_or("no key")?, line.host.ok_or("no host")?, line.t.ok_or("no time")?);
        let operation = self.operations.get_mut(&key).ok_or("it ends what was not announced")?;
        let template = operation.template.clone();
        let (start, items) = operation.open.get(&host).copied().ok_or("it ends what did not start")?;
        let is_item = line.e == "item";
        if is_item {
            operation.open.insert(host.clone(), (end, items + 1));
        } else {
            operation.open.remove(&host);
        }
        // The end of a loop says of all what each item has said of itself.
        let spoken = !is_item && items > 0 && line.outcome != Some(Said::Unreachable);
        if spoken {
            return Ok(());
        }
        let number = self.number(&key, items);
        let first = line.errors.first().filter(|_| line.swallows).cloned();
        self.told.executions.push(Execution {
            number,
            host,
            on: line.on,
            item: line.item,
            start,
            end,
            said: line.outcome.ok_or("no outcome")?,
            local: line.local,
            looks: line.looks,
            output: line.output,
            hidden_error: first,
            ..template
        });
        Ok(())
    }

    fn finish(mut self) -> Told {
        // On a host one follows the other: what was begun after the one that never ended was announced, and left out.
        let mut first: BTreeMap<&str, (i64, &str, &Operation)> = BTreeMap::new();
        for (key, operation) in &self.operations {
            for (host, (since, _)) in &operation.open {
                let earliest = first.entry(host).or_insert((*since, key.as_str(), operation));
                if *since < earliest.0 {
                    *earliest = (*since, key.as_str(), operation);
                }
            }
        }
        let last = first.into_iter().max_by_key(|(_, (since, ..))| *since);
        let last =
            last.map(|(host, (_, key, operation))| (key.to_owned(), operation.template.reference(), host.to_owned()));
        self.told.unfinished = last.map(|(key, mut operation, host)| {
            operation.number = self.number(&key, 0);
            (operation, host)
        });
        self.told.executions.sort_by_key(|execution| execution.number);
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSIBLE: &str = include_str!("../../../fixtures/ansible-2.19-events.jsonl");

    #[test]
    fn a_real_run_is_read_with_file_and_line() {
        let told = read(ANSIBLE);
        assert_eq!((told.version.as_deref(), told.over, told.broken.as_deref()), (Some("2.19.14"), true, None));
        let find = |name: &str| told.executions.iter().filter(|e| e.name == name).collect::<Vec<_>>();
        let task = find("web : role task")[0];
        assert_eq!((task.place.as_deref(), task.said), (Some("roles/web/tasks/main.yml:1"), Said::Changed));
        assert!(task.end > task.start);
        let items = find("loop");
        assert_eq!(items.iter().map(|e| e.item.as_deref()).collect::<Vec<_>>(), [Some("a"), Some("b"), Some("c")]);
        assert!(items.windows(2).all(|pair| pair[0].end <= pair[1].start && pair[0].number < pair[1].number));
        assert_eq!(find("never")[0].said, Said::Skipped);
        assert!(find("web : restart")[0].optional && find("rescued")[0].optional);
        let hidden = find("shell")[0].hidden_error.as_deref();
        assert_eq!(hidden, Some("mv: cannot stat '/tmp/nosuch': No such file or directory"));
        let included: Vec<bool> = find("included").iter().map(|e| e.condition.is_some()).collect();
        assert_eq!(included, [true, false], "one of the includes has a `when`");
        assert_eq!(told.unmatched, ["`none` (site.yml:43)"]);
        assert!(told.names.iter().any(|name| name == "web : role task") && told.paused.is_empty(), "{:?}", told.names);
        let numbers: Vec<usize> = boundaries(&told.executions).iter().map(|boundary| boundary.number).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }

    #[test]
    fn a_cut_is_noticed_and_what_came_before_it_stands() {
        let cut = &ANSIBLE[..ANSIBLE.len() * 2 / 3];
        let told = read(cut);
        assert!(!told.over && told.broken.is_some() && told.executions.len() > 5, "{:?}", told.broken);
        let between = ANSIBLE.lines().take(11).collect::<Vec<_>>().join("\n");
        let told = read(&between);
        assert!(!told.over && told.broken.is_none());
        assert_eq!(told.unfinished.map(|(operation, _)| operation.name), Some("loop".to_owned()));
    }

    #[test]
    fn what_never_ended_is_named_and_not_what_was_announced_after_it() {
        let operation = |op: &str| format!("{{\"e\":\"operation\",\"op\":\"{op}\",\"name\":\"{op}\"}}\n");
        let start = |op: &str, t: i64| format!("{{\"e\":\"start\",\"op\":\"{op}\",\"host\":\"web\",\"t\":{t}}}\n");
        let text = [operation("raises"), operation("skipped"), start("raises", 1), start("skipped", 2)].concat();
        assert_eq!(read(&text).unfinished.map(|(operation, _)| operation.name), Some("raises".to_owned()));
    }

    #[test]
    fn a_pause_is_seen_while_it_lasts() {
        let begun = ANSIBLE.lines().take(11).collect::<Vec<_>>().join("\n");
        assert_eq!(read(&format!("{begun}\n{{\"e\": \"pause\", \"number\": 2, \"t\": 5}}\n")).paused, [2]);
    }

    #[test]
    fn another_form_is_not_guessed_at() {
        assert!(read(&ANSIBLE.replacen("\"v\": 1", "\"v\": 2", 1)).broken.is_some());
        assert!(read("{\"e\": \"telemetry\"}").broken.is_some());
        assert!(read("").version.is_none());
    }
}
