//! The captures of a drill: the only place that knows where they lie and how machines are brought to rest for them.

mod capture;
pub(crate) mod settle;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redrill_machines::{Deadline, Machine};
use redrill_model::Moment;
use redrill_redact::Redactor;
use redrill_state::Capture;

use crate::problem::Problem;
use capture::Secrets;
pub(crate) use capture::TakeError;
use settle::settle;

/// A full capture of a Debian server takes 10-20 s under emulation and 1-2 s without; disks may be larger.
const CAPTURE: Duration = Duration::from_secs(300);

/// Where captures lie, and what they keep to themselves.
#[derive(Debug, Clone)]
pub(crate) struct Captures {
    dir: PathBuf,
    secrets: Secrets,
}

/// By machine.
pub(crate) type Taken = BTreeMap<String, Capture>;

impl Captures {
    /// Below this run directory. Captures of one drill compare, those of two do not: each has a key of its own.
    pub(crate) fn new(run: &Path, redactor: Arc<Redactor>) -> Self {
        Self { dir: run.join("captures"), secrets: Secrets { key: redrill_machines::run_key(), redactor } }
    }

    /// Takes one of every machine, side by side, once it is at rest. Twins are not waited for: they have been left alone.
    pub(crate) async fn take_all<M: Machine>(
        &self,
        machines: &[M],
        moment: Moment,
        deadline: &Deadline,
    ) -> Result<Taken, Problem> {
        let rest = moment != Moment::Idled;
        self.take_named(machines, moment.file_stem(), rest, deadline).await
    }

    /// The same for what is no moment of the plan, such as the state after a cut.
    pub(crate) async fn take_named<M: Machine>(
        &self,
        machines: &[M],
        name: &str,
        rest: bool,
        deadline: &Deadline,
    ) -> Result<Taken, Problem> {
        let takes = machines.iter().map(|machine| async move {
            let limit = deadline.child("a capture", CAPTURE);
            if rest {
                // Not at rest after all patience is its ordinary life; a lost machine is told by the capture.
                let _ = settle(machine, &limit).await;
            }
            let path = self.dir.join(machine.name()).join(format!("{name}.jsonl.gz"));
            let taken = capture::take(machine, &self.secrets, &path, &limit).await;
            taken.map(|taken| (machine.name().to_owned(), taken))
        });
        let taken = join_all(takes).await.into_iter().collect::<Result<Taken, TakeError>>();
        taken.map_err(Problem::from)
    }

    /// Reads one back. This blocks: captures are large.
    pub(crate) fn read(&self, machine: &str, moment: Moment) -> Result<Capture, TakeError> {
        capture::read(&capture::path(&self.dir, machine, moment))
    }

    /// Reads on a thread where blocking is allowed.
    pub(crate) async fn reading<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, TakeError> + Send + 'static,
    ) -> Result<T, Problem> {
        let captures = self.clone();
        let read = tokio::task::spawn_blocking(move || work(&captures)).await;
        let read = read.unwrap_or_else(|error| Err(TakeError::Probe { status: 0, said: error.to_string() }));
        read.map_err(Problem::from)
    }
}
