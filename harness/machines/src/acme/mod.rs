//! A stand-in for ACME servers (RFC 8555): one Pebble for each drill, on the host's loopback, and in front of it, for each
//! machine, a server that goes by the names of the real ones.
//!
//! Machines trust two roots of the drill's own: that of the server in front, and that of what Pebble issues. Both, and
//! their keys, end with the drill. Nobody outside can reach a machine, so that Pebble takes every challenge as met.

mod certificates;
mod front;
mod pebble;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) use front::serve;
pub use pebble::Pebble;

/// HTTPS.
pub(crate) const PORT: u16 = 443;
/// In the machine's directory.
pub(crate) const SOCKET: &str = "acme.sock";

/// A certificate that a machine was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issued {
    /// The machine's directory.
    pub to: PathBuf,
    /// When its order was taken.
    pub at: Option<SystemTime>,
    /// What it is for.
    pub names: Vec<String>,
}

/// Why there is no stand-in for ACME servers, or no more.
#[derive(Debug, Error)]
pub enum AcmeError {
    /// The drill's own authority could not be made.
    #[error("cannot make the certificate of the stand-in for ACME servers")]
    Certificates(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something about a file or a connection.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It could not be started.
    #[error("cannot start Pebble, which stands in for ACME servers")]
    Start(#[source] crate::error::MachineError),
    /// Its process ended.
    #[error("Pebble, which stands in for ACME servers, ended ({status}): {said}")]
    Ended {
        /// How.
        status: String,
        /// The end of what it printed.
        said: String,
    },
    /// It runs, and is not what it should be.
    #[error("Pebble, which stands in for ACME servers, is not ready after {waited:?}, last seen: {last_seen}")]
    NotReady {
        /// How long it was waited for.
        waited: Duration,
        /// What there was of it.
        last_seen: String,
    },
}

type OnIssued = Arc<dyn Fn(Issued) + Send + Sync>;

/// What a machine needs to be given certificates: the names of ACME servers, and who answers for them.
#[derive(Clone)]
pub struct Acme {
    /// Host names of ACME servers.
    pub names: Vec<String>,
    means: Arc<AcmeMeans>,
    taken: OnIssued,
}

/// What all machines of a drill share.
struct AcmeMeans {
    /// The root of the server in front, and that of what is issued.
    roots: [String; 2],
    front: TlsAcceptor,
    /// Trusts the root of the server in front: Pebble has its certificate too.
    to_pebble: TlsConnector,
    pebble: SocketAddr,
}

impl Acme {
    /// Certificates that a machine must trust, as PEM, each with a name.
    pub(crate) fn trusted(&self) -> [(&'static str, String); 2] {
        let [server, issued] = &self.means.roots;
        [("acme-server", server.clone()), ("acme-issued", issued.clone())]
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("names", &self.names).field("pebble", &self.means.pebble).finish_non_exhaustive()
    }
}

impl PartialEq for Acme {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.means, &other.means) && Arc::ptr_eq(&self.taken, &other.taken)
    }
}

impl Eq for Acme {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Whose Pebble is not there.
    pub(crate) fn nobody_behind(names: Vec<String>) -> Acme {
        in_front_of(([127, 0, 0, 1], 1).into(), names, Arc::new(drop))
    }

    pub(super) fn in_front_of(pebble: SocketAddr, names: Vec<String>, taken: OnIssued) -> Acme {
        let made = certificates::Certificates::new(&names).expect("made");
        let roots = [made.root.clone(), String::new()];
        let (front, to_pebble) = made.ends().expect("they fit");
        Acme { names, means: Arc::new(AcmeMeans { roots, front, to_pebble, pebble }), taken }
    }

    /// What a machine that trusts the drill connects with.
    pub(super) fn trusting(acme: &Acme) -> TlsConnector {
        acme.means.to_pebble.clone()
    }

    /// Pebble's own end.
    pub(super) fn accepting(acme: &Acme) -> TlsAcceptor {
        acme.means.front.clone()
    }
}
