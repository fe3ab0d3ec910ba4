//! One tree of time limits: a command ends no later than its stage, a stage no later than its drill.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use thiserror::Error;

/// A moment by which something must be over. Children never outlive their parent, and say whose limit it was.
#[derive(Debug, Clone)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
    what: String,
    slowness: f64,
}

/// A limit passed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the limit for {what} ({}) has passed", humantime::format_duration(Duration::from_secs(limit.as_secs())))]
pub struct TimedOut {
    /// Whose limit.
    pub what: String,
    /// How long it was, stretched for this host.
    pub limit: Duration,
}

impl Deadline {
    /// The limit of a whole drill; every limit below it is stretched by `slowness` (1 = hardware virtualization).
    pub fn root(what: &str, limit: Duration, slowness: f64) -> Self {
        let limit = limit.mul_f64(slowness.max(1.0));
        Self { at: Instant::now() + limit, limit, what: what.to_owned(), slowness: slowness.max(1.0) }
    }

    /// A limit inside this one.
    pub fn child(&self, what: &str, limit: Duration) -> Self {
        let own = Self::root(what, limit, self.slowness);
        if own.at <= self.at { own } else { self.clone() }
    }

    /// What is left; zero when it has passed.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// The error that says so.
    pub fn error(&self) -> TimedOut {
        TimedOut { what: self.what.clone(), limit: self.limit }
    }

    /// Waits for `work`, but not longer than this.
    pub async fn limit<T>(&self, work: impl Future<Output = T>) -> Result<T, TimedOut> {
        tokio::time::timeout(self.left(), work).await.map_err(|_| self.error())
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.what, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_never_outlives_its_parent_and_names_whose_limit_it_was() {
        let drill = Deadline::root("the drill", Duration::from_secs(60), 2.0);
        let command = drill.child("a command", Duration::from_secs(10));
        assert_eq!(command.error(), TimedOut { what: "a command".into(), limit: Duration::from_secs(20) });
        let deploy = drill.child("a deploy", Duration::from_secs(600));
        assert_eq!(deploy.error().what, "the drill");
        assert!(deploy.left() <= drill.left() + Duration::from_millis(1));
    }

    #[tokio::test]
    async fn work_is_cut_at_the_limit() {
        let deadline = Deadline::root("sleep", Duration::from_millis(20), 1.0);
        let error = deadline.limit(std::future::pending::<()>()).await.expect_err("must be cut");
        assert!(error.to_string().starts_with("the limit for sleep"), "{error}");
        assert!(deadline.passed());
    }
}
