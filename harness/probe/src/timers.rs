//! systemd's timers: what they start and when. When each fires next is told, and never compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use redrill_state::{Section, Timer};
use serde::Deserialize;

use crate::found::{self, Found, Root, squeeze};
use crate::units::UnitFiles;

const STAMPS: &str = "/var/lib/systemd/timers";
/// Settings that make up a schedule.
const SCHEDULE: [&str; 8] = [
    "OnCalendar",
    "OnBootSec",
    "OnStartupSec",
    "OnActiveSec",
    "OnUnitActiveSec",
    "OnUnitInactiveSec",
    "RandomizedDelaySec",
    "Persistent",
];

/// A line of `systemctl list-timers --output=json`: microseconds since 1970.
#[derive(Deserialize)]
struct Listed {
    unit: String,
    next: Option<u64>,
    last: Option<u64>,
}

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Timers);
    let files = UnitFiles::of(root);
    let listed = match list() {
        Ok(listed) => listed,
        Err(why) => {
            found.note(format!("when the timers fire next is not known: {why}"));
            BTreeMap::new()
        }
    };
    for mut timer in timers(root, &files) {
        if let Some(listed) = listed.get(&timer.unit) {
            timer.next = listed.next.map(|next| (next * 1000).to_string()).unwrap_or_default();
            timer.last =
                timer.last.max(listed.last.and_then(|last| i64::try_from(last * 1000).ok()).unwrap_or_default());
        }
        found.add(timer);
    }
    found
}

fn list() -> Result<BTreeMap<String, Listed>, String> {
    let systemctl = found::program("systemctl").ok_or("systemctl is not installed")?;
    let text = found::run(&systemctl, &["list-timers", "--all", "--no-pager", "--output=json"])?;
    let listed: Vec<Listed> = serde_json::from_str(&text).map_err(|error| format!("systemctl list-timers: {error}"))?;
    Ok(listed.into_iter().map(|listed| (listed.unit.clone(), listed)).collect())
}

fn timers(root: &Root, files: &UnitFiles) -> Vec<Timer> {
    let names = files.names().filter(|name| name.ends_with(".timer"));
    let timer = |name: &String| {
        let texts = files.texts(name);
        let stamp = fs::metadata(root.at(format!("{STAMPS}/stamp-{name}")));
        Timer {
            unit: name.clone(),
            schedule: schedule(&texts),
            starts: files.started_by(name),
            file: files.path(name).map(|path| root.inside(path)).unwrap_or_default(),
            next: String::new(),
            last: stamp.map(|stamp| stamp.mtime() * 1_000_000_000 + stamp.mtime_nsec()).unwrap_or_default(),
        }
    };
    names.map(timer).collect()
}

/// Later lines add to a list; an empty value begins it anew.
fn schedule(texts: &[String]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let (key, value) = (key.trim(), squeeze(value));
        if !SCHEDULE.contains(&key) {
            continue;
        }
        if value.is_empty() {
            // Of all `On...=` together, as systemd.timer(5) says.
            parts.retain(|part| !part.starts_with("On"));
        } else {
            parts.push(format!("{key}={value}"));
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn a_timer_has_its_schedule_from_all_its_files() {
        let tree = Tree::new("timers");
        tree.file("/usr/lib/systemd/system/a.timer", "[Timer]\nOnCalendar=daily\nPersistent=true\nUnit=b.service\n");
        tree.file("/etc/systemd/system/a.timer.d/x.conf", "[Timer]\nOnCalendar=\nOnCalendar=*-*-*  02:00\n");
        tree.file("/usr/lib/systemd/system/a.service", "[Service]\n");
        tree.file(&format!("{STAMPS}/stamp-a.timer"), "");
        let timers = timers(&tree.root(), &UnitFiles::of(&tree.root()));
        assert_eq!(timers.len(), 1);
        assert_eq!(timers[0].schedule, "Persistent=true; OnCalendar=*-*-* 02:00");
        assert_eq!(
            (timers[0].starts.as_str(), timers[0].file.as_str()),
            ("b.service", "/usr/lib/systemd/system/a.timer")
        );
        assert!(crate::now() - timers[0].last < 60_000_000_000);
    }

    #[test]
    fn systemctls_list_is_read() {
        let text = r#"[{"next":1795500000000000,"left":1,"last":null,"passed":null,"unit":"a.timer","activates":"a.service"}]"#;
        let listed: Vec<Listed> = serde_json::from_str(text).expect("its form");
        assert_eq!(
            (listed[0].unit.as_str(), listed[0].next, listed[0].last),
            ("a.timer", Some(1_795_500_000_000_000), None)
        );
    }
}
