//! The second deploy held against the first: what is kept between the stages, and what the captures say.

use std::collections::BTreeMap;
use std::time::Instant;

use redrill_machines::{Deadline, Machine};
use redrill_model::Moment;
use redrill_state::{Capture, Control, Judgement, Seen, counts, diff};

use super::{add_flip_flops, is_without_effect, judge_machine};
use crate::captures::{Captures, Taken};
use crate::claims::idempotent::details::{self, Contents};
use crate::claims::idempotent::writes;
use crate::context::Context;
use crate::deploy::Followed;
use crate::deploy::tools::Deployed;
use crate::problem::Problem;

/// What the stages of a comparison hand on, by machine.
#[derive(Default)]
pub(crate) struct Watch {
    /// S1 and S2, until they are judged.
    compared: BTreeMap<String, (Capture, Capture)>,
    /// Texts of the files that the first deploy wrote, as they were at S1.
    kept: BTreeMap<String, Contents>,
    /// The paths that the first deploy wrote, to be followed during the second.
    pub(crate) followed: Followed,
    /// The states in which these were seen.
    pub(crate) record: BTreeMap<String, Vec<Seen>>,
}

/// What the first deploy made of a clean machine, in words by section.
pub(crate) type Became = BTreeMap<String, String>;

impl Watch {
    /// Keeps the texts that a later deploy may change. Without them a finding shows digests.
    pub(crate) async fn keep<M: Machine>(
        &mut self,
        captures: &Captures,
        machines: &[M],
        s1: &Taken,
        deadline: &Deadline,
    ) {
        for machine in machines {
            let name = machine.name().to_owned();
            let Some(s1) = s1.get(&name) else { continue };
            let of = name.clone();
            let Ok(clean) = captures.reading(move |captures| captures.read(&of, Moment::Clean)).await else { continue };
            self.followed.insert(name.clone(), writes::worth_watching(&clean, s1));
            if let Ok(contents) = details::read(machine, &details::worth_keeping(&clean, s1), deadline).await {
                self.kept.insert(name, contents);
            }
        }
    }

    /// Reads S0, S1 and S2 of these machines, to be judged.
    pub(crate) async fn read_back(
        &mut self,
        captures: &Captures,
        names: Vec<String>,
    ) -> Result<BTreeMap<String, Became>, Problem> {
        let read = captures.reading(move |captures| {
            let read = |name: String| {
                let (s1, s2) = (captures.read(&name, Moment::Deployed)?, captures.read(&name, Moment::Redeployed)?);
                let became = counts(&diff(&captures.read(&name, Moment::Clean)?, &s1));
                let became = became.into_iter().map(|(section, text)| (section.name().to_owned(), text)).collect();
                Ok((name, became, (s1, s2)))
            };
            names.into_iter().map(read).collect::<Result<Vec<_>, _>>()
        });
        let mut all = BTreeMap::new();
        for (name, became, pair) in read.await? {
            all.insert(name.clone(), became);
            self.compared.insert(name, pair);
        }
        Ok(all)
    }

    /// Leaves the machines alone for as long as the second deploy took, if it left anything that noise could excuse.
    /// `began` is when the stage did: reading captures back is the host's work and not the machines'. Returns a note.
    pub(crate) async fn idle(&self, context: &Context, second: &Deployed, began: Instant) -> String {
        let quiet = self.compared.iter().all(|(name, (s1, s2))| is_without_effect(name, second, (s1, s2)));
        if quiet {
            return "not needed: the second deploy left nothing that noise could excuse".to_owned();
        }
        let (long, seconds) = (second.lasted(), second.lasted().as_secs_f64());
        context.tell(&format!("leaving the machines alone for {seconds:.0} s, to see what changes by itself"));
        tokio::time::sleep(long.saturating_sub(began.elapsed())).await;
        format!("{seconds:.0} s, as long as the second deploy")
    }

    /// Holds S1, S2 and the control against each other: a twin began as S1, a machine that was left alone as S2. Returns
    /// what they say, and S2.
    pub(crate) fn judge(
        &mut self,
        name: &str,
        idled: &Capture,
        twin: bool,
        second: &Deployed,
    ) -> Option<(Judgement, Capture)> {
        let (s1, s2) = self.compared.remove(name)?;
        let control = Control { before: if twin { &s1 } else { &s2 }, after: idled };
        let mut judgement = judge_machine(name, second, (&s1, &s2, Some(control)));
        if let Some(record) = self.record.remove(name) {
            add_flip_flops(&mut judgement, name, second, &record);
        }
        Some((judgement, s2))
    }

    /// What the differences look like, asked while the machine is as the second deploy left it: lines by subject.
    pub(crate) async fn details<M: Machine>(
        &mut self,
        machine: &M,
        (judgement, s2): (&Judgement, &Capture),
        second: &Deployed,
        deadline: &Deadline,
    ) -> BTreeMap<String, Vec<String>> {
        let name = machine.name();
        let kept = self.kept.remove(name).unwrap_or_default();
        let since = second.began + second.offset(name);
        details::gather(machine, judgement, (&kept, s2), since, deadline).await.into_iter().collect()
    }
}
