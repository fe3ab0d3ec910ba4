//! What the smaller commands print.

use std::collections::BTreeMap;

use redrill_engine::{Canonicaliser, Loaded, compared, not_compared};
use redrill_machines::Left;
use redrill_machines::image::Image;
use redrill_model::{BackendKind, Limits, Network, Stage, plan as plan_of};

use super::{result_line, style};

/// How well a thing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// As wished.
    Good,
    /// Works, with a limit worth knowing.
    Limited,
    /// Drills cannot run.
    Missing,
}

/// One line of the doctor's.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) name: String,
    pub(crate) health: Health,
    pub(crate) text: String,
    pub(crate) mend: String,
}

/// The doctor's findings.
pub(crate) fn doctor(findings: &[Diagnosis]) {
    let style = style::for_stdout();
    for finding in findings {
        let mark = match finding.health {
            Health::Good => style.good("good   "),
            Health::Limited => style.open("limited"),
            Health::Missing => style.bad("missing"),
        };
        result_line(&format!("{mark}  {:<18}  {}", finding.name, finding.text));
        if !finding.mend.is_empty() {
            result_line(&format!("{:29}{} {}", "", style.dim("->"), finding.mend));
        }
    }
    let missing = findings.iter().filter(|finding| finding.health == Health::Missing).count();
    result_line(&match missing {
        0 => style.good("\nThis host can run drills."),
        count => style.bad(&format!("\nThis host cannot run drills yet: {count} missing.")),
    });
}

/// Images in the cache.
pub(crate) fn images(images: &[Image]) {
    if images.is_empty() {
        result_line("no images: redrill image build");
    }
    for image in images {
        let (made, of) = match &image.manifest.origin {
            None => ("built", format!("{} packages", image.manifest.packages.len())),
            Some(origin) => ("taken", format!("{}, {}", origin.url, &origin.checksum.to_string()[..19])),
        };
        result_line(&format!(
            "{:<12}  {}  {made} {}  {of}  {} MiB",
            image.manifest.name,
            &image.digest[..12],
            image.manifest.built,
            image.bytes() / (1024 * 1024),
        ));
    }
}

/// What was removed.
pub(crate) fn pruned(removed: &[(String, u64)]) {
    if removed.is_empty() {
        result_line("nothing to remove");
    }
    for (name, bytes) in removed {
        result_line(&format!("removed {name}, {} MiB", bytes / (1024 * 1024)));
    }
}

/// What is left of runs that are over.
pub(crate) fn left(left: &[Left]) {
    for left in left {
        let kept = if left.kept { "kept" } else { "left" };
        let (processes, containers, files) = (left.processes, left.containers, left.files);
        let place = left.place.display();
        result_line(&format!("{kept}  {place}: {processes} processes, {containers} containers, {files} files"));
    }
    result_line(&match left.len() {
        0 => "0 left".to_owned(),
        count => format!("{count} left: redrill clean"),
    });
}

/// What is left out of comparisons, and how often it was, by reason, in so many reports.
pub(crate) fn canonicalisers(all: &[Canonicaliser], reports: usize, hits: &BTreeMap<String, u64>, json: bool) {
    let hits = |one: &Canonicaliser| hits.get(one.reason).copied().unwrap_or_default();
    if json {
        let line = |one: &Canonicaliser| serde_json::json!({"name": one.name, "reason": one.reason, "places": one.places, "hits": hits(one)});
        let list = serde_json::json!({"reports": reports, "canonicalisers": all.iter().map(line).collect::<Vec<_>>()});
        result_line(&serde_json::to_string_pretty(&list).unwrap_or_default());
        return;
    }
    let style = style::for_stdout();
    for one in all {
        let count = match hits(one) {
            0 => style.open("never"),
            count => count.to_string(),
        };
        result_line(&format!("{}: {}", style.bold(one.name), one.reason));
        result_line(&format!("  hits    {count}"));
        result_line(&format!("  places  {}", style.dim(&one.places)));
    }
    let never = all.iter().filter(|one| hits(one) == 0).count();
    result_line(&format!("\n{} kinds; {never} never hit in {reports} reports of earlier drills", all.len()));
}

/// What is compared, and what is not.
pub(crate) fn scope(json: bool) {
    if json {
        let not: serde_json::Map<_, _> = not_compared(false)
            .map(|one| {
                (one.what.to_owned(), serde_json::json!({"why": one.why, "only_containers": one.only_shared_kernel}))
            })
            .collect();
        let scope = serde_json::json!({"compared": compared(), "not_compared": not});
        result_line(&serde_json::to_string_pretty(&scope).unwrap_or_default());
        return;
    }
    let style = style::for_stdout();
    result_line(&format!("{} {}", style.bold("compared:"), compared().join(", ")));
    result_line(&style.bold("not compared:"));
    for one in not_compared(false) {
        let only = if one.only_shared_kernel { " (containers only)" } else { "" };
        result_line(&format!("  {}{only}", one.what));
        result_line(&format!("    {}", style.dim(one.why)));
    }
}

/// A plan.
pub(crate) fn plan(loaded: &Loaded, json: bool) {
    let plan = plan_of(&loaded.scenario, loaded.scenario.backend != BackendKind::Container);
    if json {
        result_line(&serde_json::to_string_pretty(&plan).unwrap_or_default());
        return;
    }
    let (style, scenario) = (style::for_stdout(), &loaded.scenario);
    result_line(&format!("{}: {}", style.bold(&loaded.name), scenario.summary));
    let claims: Vec<&str> = scenario.claims.iter().map(|claim| claim.name()).collect();
    result_line(&format!("claims    {}", claims.join(", ")));
    let repo = loaded.directory.join(&scenario.servers.path);
    result_line(&format!("repo      {} at {}", repo.display(), scenario.servers.commit));
    for machine in &scenario.machines {
        let (image, memory) = (machine.image.get_ref(), machine.memory_mib);
        result_line(&format!("machine   {} from {image}, {memory} MiB, {} cpus", machine.name, machine.cpus));
    }
    result_line(match scenario.backend {
        BackendKind::Auto => {
            "backend   QEMU where it is there, else containers (which have no twins, and idle instead)"
        }
        BackendKind::Qemu => "backend   QEMU",
        BackendKind::Container => "backend   containers",
    });
    result_line(match scenario.network {
        Network::Mirror => "network   machines: the package mirror and nothing else",
        Network::Open => "network   machines: whatever the host reaches",
    });
    result_line("          controller: SSH of the machines, and pip's index while the deploy tool is installed");
    for way in &scenario.ways_out {
        result_line(&format!("          controller: {}:{}, {}", way.host, way.port, way.why));
    }
    result_line("\nstages");
    for (number, stage) in plan.stages.iter().enumerate() {
        let limit = limit(*stage, scenario.limits).map(|limit| format!(" (at most {limit})")).unwrap_or_default();
        result_line(&format!("{:>4}  {}{limit}", number + 1, stage.name()));
        if *stage == Stage::Check {
            for check in &scenario.checks {
                result_line(&style.dim(&format!("        {} {}: {}", check.kind.name(), check.name, check.why)));
            }
        }
    }
    result_line(&style.dim("\nlimits are for hardware virtualization; a slower host gets them stretched"));
}

fn limit(stage: Stage, limits: Limits) -> Option<humantime::FormattedDuration> {
    match stage {
        Stage::Boot => Some(humantime::format_duration(limits.boot)),
        Stage::Deploy(_) => Some(humantime::format_duration(limits.deploy)),
        _ => None,
    }
}
