//! The drill's own authority, and the certificate that it signs for the names of ACME servers.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::AcmeError;

/// Where Pebble listens.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// What was made. The authority's key is gone: it signs once.
pub(super) struct Certificates {
    /// The authority, as PEM.
    pub(super) root: String,
    /// The server's certificate, as PEM.
    pub(super) certificate: String,
    /// The server's key, as PEM.
    pub(super) key: String,
    root_der: CertificateDer<'static>,
    certificate_der: CertificateDer<'static>,
    key_der: PrivateKeyDer<'static>,
}

impl Certificates {
    /// For a server that goes by these names, and for Pebble on loopback. Python 3.13 and later take no certificate that
    /// does not name its issuer's key, and no authority that does not say what its key is for.
    pub(super) fn new(names: &[String]) -> Result<Self, AcmeError> {
        Self::sign(names).map_err(|error| AcmeError::Certificates(error.into()))
    }

    fn sign(names: &[String]) -> Result<Self, rcgen::Error> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name = called("redrill: ACME servers of one drill");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate()?;
        let root = authority.self_signed(&authority_key)?;
        let mut server = CertificateParams::new([names, &[LOOPBACK.to_owned()]].concat())?;
        server.distinguished_name = called("redrill: in place of an ACME server");
        server.use_authority_key_identifier_extension = true;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?;
        Ok(Self {
            root: root.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            root_der: root.der().clone(),
            certificate_der: certificate.der().clone(),
            key_der: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        })
    }

    /// A server with this certificate, and a client that trusts it.
    pub(super) fn ends(&self) -> Result<(TlsAcceptor, TlsConnector), AcmeError> {
        let fit = || -> Result<_, rustls::Error> {
            let provider = Arc::new(ring::default_provider());
            let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(vec![self.certificate_der.clone()], self.key_der.clone_key())?;
            let mut roots = RootCertStore::empty();
            roots.add(self.root_der.clone())?;
            let client = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
            Ok((TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client))))
        };
        fit().map_err(|error| AcmeError::Certificates(error.into()))
    }
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}
