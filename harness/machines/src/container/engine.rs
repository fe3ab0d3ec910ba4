//! The container engine, as far as testcontainers does not reach: images from a tree, networks, commits, and commands
//! with standard input.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerConfig, ExecConfig, NetworkCreateRequest};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateImageOptionsBuilder, InspectContainerOptions, RemoveImageOptionsBuilder,
};
use futures_util::{Stream, StreamExt};
use testcontainers::TestcontainersError;
use testcontainers::core::client::ClientError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sweep::{LABEL, copy_of};
use crate::agent::Agent;
use crate::command::PROBE;
use crate::error::{MachineError, NO_SPACE};
use crate::image::Image;

/// The least that is kept of what a container printed, if it printed more.
const LOGS_BYTES: usize = 2 << 20;
/// Bytes that are read of an image's tree at a time.
const PIECE: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Engine {
    pub(super) docker: Docker,
}

pub(super) fn failed(what: &str) -> impl Fn(bollard::errors::Error) -> MachineError {
    move |error| match error {
        Error::DockerResponseServerError { message, .. } if says(&message, NO_SPACE) => MachineError::DiskFull {
            place: "the container engine".to_owned(),
            what: format!("a container ({message})"),
        },
        error => MachineError::Engine(format!("{what}: {error}")),
    }
}

/// Engines pass the system's words on in small letters.
fn says(message: &str, words: &str) -> bool {
    message.to_lowercase().contains(&words.to_lowercase())
}

/// Words of engines, their runtimes and their authorization plugins for a right that is not given.
const REFUSALS: [&str; 6] =
    ["capabilit", "apply caps", "permission denied", "operation not permitted", "not allowed", "authorization denied"];

/// Why a container did not start; `needs` is what it asked for.
pub(super) fn not_started(machine: &str, needs: &str, error: &TestcontainersError) -> MachineError {
    use ClientError::{CreateContainer, StartContainer};
    let TestcontainersError::Client(
        CreateContainer(Error::DockerResponseServerError { message, .. })
        | StartContainer(Error::DockerResponseServerError { message, .. }),
    ) = error
    else {
        return MachineError::Engine(whole(error));
    };
    if says(message, NO_SPACE) {
        let what = format!("`{machine}` ({message})");
        return MachineError::DiskFull { place: "the container engine".to_owned(), what };
    }
    if REFUSALS.iter().any(|words| says(message, words)) {
        let (machine, needs, said) = (machine.to_owned(), needs.to_owned(), message.clone());
        return MachineError::Refused { machine, needs, said };
    }
    MachineError::Engine(whole(error))
}

/// An error with all its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        if !text.contains(&source.to_string()) {
            text = format!("{text}: {source}");
        }
        cause = source.source();
    }
    text
}

/// Why a container is no longer watched.
#[derive(Debug, Clone)]
pub(super) enum Gone {
    /// It ended; how.
    Ended(String),
    /// The engine did; what was seen of it.
    Engine(String),
}

impl Gone {
    pub(super) fn error(&self, machine: &str) -> MachineError {
        match self {
            Self::Ended(said) => MachineError::Lost { machine: machine.to_owned(), said: said.clone() },
            Self::Engine(said) => MachineError::Engine(format!("it went away under `{machine}`: {said}")),
        }
    }
}

impl Engine {
    /// The host's engine; an error if none answers.
    pub(super) async fn connect() -> Result<Self, MachineError> {
        let docker = Docker::connect_with_defaults().map_err(failed("cannot be reached"))?;
        docker.ping().await.map_err(failed("does not answer"))?;
        Ok(Self { docker })
    }

    /// The image's tree as an image of the engine; named by its digest and kept there.
    pub(super) async fn import(&self, image: &Image) -> Result<(), MachineError> {
        let (name, tag) = copy_of(&image.manifest.name, &image.digest);
        if self.has(&format!("{name}:{tag}")).await {
            return Ok(());
        }
        let tree = tokio::fs::File::open(image.tree()).await.map_err(MachineError::io("the image has no tree"))?;
        let pieces = futures_util::stream::unfold(tree, |mut tree| async move {
            let mut piece = vec![0; PIECE];
            match tree.read(&mut piece).await {
                Ok(0) => None,
                Ok(length) => {
                    piece.truncate(length);
                    Some((Ok(piece), tree))
                }
                Err(error) => Some((Err(error), tree)),
            }
        });
        self.take(&name, &tag, pieces).await
    }

    /// Whether it has this image.
    pub(super) async fn has(&self, image: &str) -> bool {
        self.docker.inspect_image(image).await.is_ok()
    }

    /// Makes an image of an archive of files.
    pub(super) async fn take(
        &self,
        name: &str,
        tag: &str,
        archive: impl Stream<Item = std::io::Result<Vec<u8>>> + Send + 'static,
    ) -> Result<(), MachineError> {
        let archive = bollard::body_try_stream(archive.map(|piece| piece.map(Into::into)));
        let options = CreateImageOptionsBuilder::new().from_src("-").repo(name).tag(tag).build();
        let mut told = Box::pin(self.docker.create_image(Some(options), Some(archive), None));
        while let Some(step) = told.next().await {
            step.map_err(failed("does not take the image"))?;
        }
        Ok(())
    }

    /// A network that leads out, for machines whose scenario wants that.
    pub(super) async fn network(&self, name: &str, run: &Path) -> Result<(), MachineError> {
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            labels: Some(labels(run)),
            ..NetworkCreateRequest::default()
        };
        self.docker.create_network(request).await.map(drop).map_err(failed("cannot make a network"))
    }

    /// The machine's agent, as a command in it.
    pub(super) async fn agent(&self, machine: &str, container: &str) -> Result<Agent, MachineError> {
        let wanted = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            cmd: Some(vec![PROBE.to_owned(), "agent".to_owned(), "-".to_owned()]),
            ..ExecConfig::default()
        };
        let cannot = failed("cannot run a command");
        let exec = self.docker.create_exec(container, wanted).await.map_err(&cannot)?;
        let started = self.docker.start_exec(&exec.id, None::<StartExecOptions>).await.map_err(&cannot)?;
        let StartExecResults::Attached { mut output, input } = started else {
            return Err(MachineError::Engine("a command was not attached to".to_owned()));
        };
        let (mut writing, reading) = tokio::io::duplex(PIECE);
        tokio::spawn(async move {
            while let Some(Ok(said)) = output.next().await {
                if let LogOutput::StdOut { message } = said
                    && writing.write_all(&message).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Agent::over(machine, reading, input))
    }

    /// Addresses on the host's loopback that lead to ports of the container.
    pub(super) async fn ports(&self, container: &str) -> Result<BTreeMap<u16, SocketAddr>, MachineError> {
        let cannot = failed("does not tell of a container");
        let options = None::<InspectContainerOptions>;
        let found = self.docker.inspect_container(container, options).await.map_err(cannot)?;
        let ports = found.network_settings.and_then(|settings| settings.ports).unwrap_or_default();
        let pair = |(inside, bindings): (String, Option<Vec<bollard::models::PortBinding>>)| {
            let inside = inside.strip_suffix("/tcp")?.parse().ok()?;
            let here: u16 = bindings?.first()?.host_port.as_ref()?.parse().ok()?;
            Some((inside, SocketAddr::from(([127, 0, 0, 1], here))))
        };
        Ok(ports.into_iter().filter_map(pair).collect())
    }

    /// The container's address on the engine's network.
    pub(super) async fn address(&self, container: &str) -> Result<IpAddr, MachineError> {
        let cannot = failed("does not tell of a container");
        let options = None::<InspectContainerOptions>;
        let found = self.docker.inspect_container(container, options).await.map_err(cannot)?;
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let mut addresses = networks.into_values().filter_map(|network| network.ip_address?.parse().ok());
        addresses.next().ok_or_else(|| MachineError::Engine("a container has no address".to_owned()))
    }

    /// Comes to an end when the container does, and tells why.
    pub(super) async fn ended(&self, container: &str) -> Gone {
        let mut waiting =
            Box::pin(self.docker.wait_container(container, None::<bollard::query_parameters::WaitContainerOptions>));
        let ended = |status: i64| Gone::Ended(format!("the container ended with status {status}"));
        match waiting.next().await {
            Some(Ok(end)) => ended(end.status_code),
            Some(Err(Error::DockerContainerWaitError { code, .. })) => ended(code),
            Some(Err(error)) => Gone::Engine(error.to_string()),
            None => Gone::Engine("it closed the connection".to_owned()),
        }
    }

    /// What the container printed, to its end.
    pub(super) async fn logs(&self, container: &str, to: &Path) {
        let options = bollard::query_parameters::LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let mut lines = Box::pin(self.docker.logs(container, Some(options)));
        let mut text = Vec::new();
        while let Some(Ok(line)) = lines.next().await {
            text.extend(line.into_bytes());
            // Of one that writes without an end, the end.
            if text.len() > 2 * LOGS_BYTES {
                text.drain(..text.len() - LOGS_BYTES);
            }
        }
        // Evidence, if there is any: systemd in a container says little there.
        let _ = tokio::fs::write(to, text).await;
    }

    /// The container's file system as an image.
    pub(super) async fn commit(&self, container: &str, name: &str, tag: &str, run: &Path) -> Result<(), MachineError> {
        let options = CommitContainerOptionsBuilder::new().container(container).repo(name).tag(tag).pause(true).build();
        let config = ContainerConfig { labels: Some(labels(run)), ..ContainerConfig::default() };
        self.docker.commit_container(options, config).await.map(drop).map_err(failed("cannot freeze a container"))
    }

    /// Removes the container, and all that it had.
    pub(super) async fn remove(&self, container: &str) -> Result<(), MachineError> {
        let options = bollard::query_parameters::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker.remove_container(container, Some(options)).await {
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) | Ok(()) => Ok(()),
            Err(error) => Err(failed("cannot remove a container")(error)),
        }
    }

    /// Removes a frozen container's image.
    pub(super) async fn forget(&self, image: &str) {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        // What stays is found by its label.
        let _ = self.docker.remove_image(image, Some(options), None).await;
    }
}

pub(super) fn labels(run: &Path) -> HashMap<String, String> {
    HashMap::from([(LABEL.to_owned(), run.display().to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_failed(message: &str) -> MachineError {
        let error = Error::DockerResponseServerError { status_code: 500, message: message.to_owned() };
        not_started("web", "SYS_ADMIN", &TestcontainersError::Client(ClientError::StartContainer(error)))
    }

    #[test]
    fn what_an_engine_does_not_admit_is_told_from_what_it_cannot_do() {
        // By runc, by an authorization plugin, by Docker itself.
        for message in [
            "failed to create task for container: OCI runtime create failed: runc create failed: unable to start \
             container process: error during container init: unable to apply caps: operation not permitted",
            "authorization denied by plugin policy: no capabilities beyond the default",
            "invalid CapAdd: unknown capability: \"CAP_SYS_ADMIN\"",
        ] {
            let error = start_failed(message);
            assert!(matches!(error, MachineError::Refused { .. }), "{error:?}");
            assert!(error.to_string().contains("SYS_ADMIN") && error.to_string().ends_with(message), "{error}");
        }
        let error = start_failed("mkdir /var/lib/docker/overlay2/x: no space left on device");
        assert!(matches!(error, MachineError::DiskFull { .. }), "{error:?}");
        let error = start_failed("no such image: redrill/debian-13");
        assert!(matches!(error, MachineError::Engine(_)), "{error:?}");
    }
}
