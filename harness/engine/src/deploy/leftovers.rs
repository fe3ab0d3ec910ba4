//! What a deploy left that will still act: it is waited for within a limit, and told where it takes longer.

use std::time::{Duration, Instant};

use redrill_machines::{Deadline, Exec, Machine, PROBE};
use redrill_state::Pending;

/// What acts later than this after the deploy is told, and not waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// A login needs a moment to end, with all that it ran.
const MOMENT: Duration = Duration::from_secs(2);

/// What is left of a deploy on one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// What will act when nobody looks any more.
    pub(crate) pending: Vec<Pending>,
    /// How long was waited for what acted meanwhile.
    pub(crate) waited: Duration,
}

/// Waits for what the deploy that began at `began`, on the machine's clock, left in its login or gave to others. A machine
/// that does not answer has left nothing: its loss is told elsewhere.
pub(crate) async fn wait<M: Machine>(machine: &M, began: i64, deadline: &Deadline) -> Leftovers {
    let start = Instant::now();
    loop {
        let mut pending = look(machine, deadline).await;
        pending.retain(|left| left.since >= began);
        let waited = start.elapsed();
        if is_over(&pending, waited) {
            return Leftovers { pending, waited };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look<M: Machine>(machine: &M, deadline: &Deadline) -> Vec<Pending> {
    let limit = deadline.child("a look at what the deploy left", Duration::from_secs(30));
    let Ok(output) = machine.exec(&Exec::new([PROBE, "pending"]), b"", &limit).await else { return Vec::new() };
    output.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Whether there is nothing left to wait for: nothing is there, or nothing that will act within our patience.
fn is_over(pending: &[Pending], waited: Duration) -> bool {
    let patience = i64::try_from(PATIENCE.saturating_sub(waited).as_nanos()).unwrap_or(i64::MAX);
    // Overdue by more than this, it will not act: nobody runs it.
    let late = i64::try_from(MOMENT.as_nanos()).unwrap_or(i64::MAX);
    let acts_soon = |left: &Pending| left.left.is_some_and(|left| left > -late && left < patience);
    pending.is_empty() || (waited >= MOMENT && !pending.iter().any(acts_soon)) || waited >= PATIENCE
}

/// A line of what is told of it.
pub(crate) fn told(left: &Pending) -> String {
    match left.left.filter(|left| *left > 0) {
        Some(nanoseconds) => format!("`{}` acts in {} s", left.what, nanoseconds / 1_000_000_000),
        None => format!("`{}` is still there", left.what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(seconds: Option<i64>) -> Vec<Pending> {
        vec![Pending { what: "sh".to_owned(), since: 0, left: seconds.map(|seconds| seconds * 1_000_000_000) }]
    }

    #[test]
    fn what_acts_soon_is_waited_for_and_what_says_nothing_is_not() {
        let over = |seconds, waited| is_over(&pending(seconds), Duration::from_secs(waited));
        assert!(is_over(&[], Duration::ZERO));
        assert!(!over(Some(20), 0) && !over(Some(1), 19) && !over(Some(-1), 21));
        assert!(!over(None, 1), "a login that ends");
        assert!(over(None, 2) && over(Some(3600), 2), "not within our patience");
        assert!(over(Some(50), 30), "nor within what is left of it");
        assert!(over(Some(-60), 2), "overdue: nobody runs it");
        assert!(over(Some(0), 60));
    }

    #[test]
    fn what_is_left_is_told_with_the_time_at_which_it_acts() {
        assert_eq!(told(&pending(Some(90))[0]), "`sh` acts in 90 s");
        assert_eq!(told(&pending(None)[0]), "`sh` is still there");
    }
}
