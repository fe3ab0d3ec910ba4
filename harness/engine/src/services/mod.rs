//! What stands in for the world: a mail sink, an authority for certificates.

pub(crate) mod acme;
pub(crate) mod mail_sink;

use std::sync::Arc;

use redrill_machines::{AcmeError, Needs};
use redrill_model::Stage;

use crate::context::Context;
use acme::Authority;
use mail_sink::MailSink;

/// Those that the scenario names.
pub(crate) struct Services {
    pub(crate) mail_sink: Option<Arc<MailSink>>,
    /// Gives the machines certificates, from the first boot on.
    pub(crate) authority: Option<Authority>,
}

impl Services {
    pub(crate) fn new(context: &Context) -> Self {
        Self { mail_sink: MailSink::open(&context.scenario().mail, context.path()), authority: None }
    }

    /// Starts what machines need from their first boot on.
    pub(crate) async fn open(&mut self, context: &Context) -> Result<(), AcmeError> {
        self.authority = Authority::open(context).await?;
        Ok(())
    }

    /// A stage begins: what comes now is counted under it.
    pub(crate) fn stage(&self, stage: Stage) {
        if let Some(room) = &self.mail_sink {
            room.stage(stage);
        }
        if let Some(authority) = &self.authority {
            authority.stage(stage);
        }
    }

    /// What a machine needs to reach them.
    pub(crate) fn needs(&self, context: &Context, needs: Needs) -> Needs {
        let mail = self.mail_sink.as_ref().map(|room| room.for_machines(&context.events.shared_redactor()));
        Needs { mail, acme: self.authority.as_ref().map(Authority::acme), ..needs }
    }

    /// The root that machines trust in this drill, as PEM.
    pub(crate) fn trusted(&self) -> Option<&str> {
        self.authority.as_ref().map(Authority::root)
    }
}
