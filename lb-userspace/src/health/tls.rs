//! TLS towards backends: the check of the handshake, and the connection that other checks speak in.
//!
//! What a certificate is trusted by is kept between checks, because reading the host's CAs takes longer than a
//! handshake. Sessions are not resumed: a resumed one shows no certificate, and a new one that has expired would be
//! seen by every client but by no check. Time is that of this host: where its clock is wrong, so is the verdict.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::der::{DateTime, Decode as _};

use super::probe::Attempt;
use super::{Outcome, tcp};
use crate::model::{TlsCheck, TlsOptions};

/// How long the host's CAs are taken for what they were: operators add theirs while we run.
const HOST_CAS: Duration = Duration::from_secs(600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// One check: the handshake, whose certificate clients would accept.
pub async fn check(attempt: Attempt, check: &TlsCheck, trust: &Trust) -> Outcome {
    let stream = match tcp::connect(attempt).await {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    let alpn: Vec<&str> = check.alpn.iter().map(String::as_str).collect();
    match secure(attempt, stream, None, &alpn, &check.tls, trust).await {
        Ok(Secured { stream, warning }) => {
            let (_, session) = stream.get_ref();
            let version = match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS 1.3",
            };
            let agreed = session.alpn_protocol().map(|name| format!(", {}", String::from_utf8_lossy(name)));
            let reason = format!("handshake done: {version}{}", agreed.unwrap_or_default());
            let latency = attempt.start.elapsed();
            tokio::spawn(tcp::say_goodbye(stream));
            Outcome::Passed { reason, latency, warning }
        }
        Err(outcome) => outcome,
    }
}

/// A connection after its handshake.
pub(super) struct Secured {
    pub stream: TlsStream<TcpStream>,
    /// The certificate expires soon.
    pub warning: Option<String>,
}

/// The handshake on `stream`. `host` is the name the check goes by, for want of a better one in `options`; one of
/// `alpn` has to be agreed on, unless it is empty.
pub(super) async fn secure(
    attempt: Attempt,
    stream: TcpStream,
    host: Option<&str>,
    alpn: &[&str],
    options: &TlsOptions,
    trust: &Trust,
) -> Result<Secured, Outcome> {
    let name = server_name(attempt.address, options.sni.as_deref().or(host));
    let config = match timeout_at(attempt.deadline(), trust.config(options, alpn)).await {
        Ok(Ok(config)) => config,
        Ok(Err(reason)) => return Err(Outcome::Skipped { reason }),
        Err(_) => return Err(Outcome::Skipped { reason: "reading the CAs takes longer than a check may".into() }),
    };
    let connected = timeout_at(attempt.deadline(), TlsConnector::from(config).connect(name, stream)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(attempt.failed(broken(&error, alpn))),
        Err(_) => return Err(attempt.silent("the TLS handshake was not over")),
    };
    let (_, session) = stream.get_ref();
    let http1_alone = alpn == ["http/1.1"];
    if session.alpn_protocol().is_none() && !alpn.is_empty() && !http1_alone {
        return Err(attempt.failed(disagreed(alpn)));
    }
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let warning = leaf.and_then(|leaf| expires_soon(leaf, options.warn_days, SystemTime::now()));
    Ok(Secured { stream, warning })
}

/// The name that is asked for: `name` if it is one, perhaps with a port behind it, else the address.
fn server_name(address: SocketAddr, name: Option<&str>) -> ServerName<'static> {
    let without_port = name.map(|name| name.rsplit_once(':').map_or(name, |(name, _)| name));
    without_port
        .and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .filter(|name| matches!(name, ServerName::DnsName(_)))
        .unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
}

/// What is known of whom to trust, kept between checks.
#[derive(Debug, Default)]
pub struct Trust {
    /// A lock each, so that what is read for one is read once, and nobody else waits for it.
    configs: Mutex<HashMap<Wanted, Arc<tokio::sync::Mutex<Option<Known>>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wanted {
    /// `None`: the host's own.
    ca: Option<PathBuf>,
    verify: bool,
    alpn: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Known {
    config: Arc<ClientConfig>,
    /// Time and length of the file it was made from.
    file: Option<(SystemTime, u64)>,
    made: Instant,
}

impl Trust {
    /// How to connect; an error is about this host, not about the backend.
    async fn config(&self, options: &TlsOptions, alpn: &[&str]) -> Result<Arc<ClientConfig>, String> {
        let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Which CA is of no interest where none has to vouch.
        let ca = options.ca.clone().filter(|_| options.verify);
        let file = match &ca {
            None => None,
            Some(path) => match tokio::fs::metadata(path).await.and_then(|m| Ok((m.modified()?, m.len()))) {
                Ok(stamp) => Some(stamp),
                Err(error) => return Err(unreadable(path, &error)),
            },
        };
        let wanted = Wanted { ca, verify: options.verify, alpn };
        let entry = {
            let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(configs.entry(wanted.clone()).or_default())
        };
        let mut known = entry.lock().await;
        let current = |known: &&Known| known.file == file && (file.is_some() || known.made.elapsed() < HOST_CAS);
        if let Some(known) = known.as_ref().filter(current) {
            return Ok(Arc::clone(&known.config));
        }
        // Hundreds of certificates are read and parsed.
        let made = tokio::task::spawn_blocking(move || config(&wanted)).await;
        let config = Arc::new(made.map_err(|_| "the CAs were not read: the process is stopping".to_owned())??);
        *known = Some(Known { config: Arc::clone(&config), file, made: Instant::now() });
        Ok(config)
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("the CA file {} cannot be read: {error}", path.display())
}

fn config(wanted: &Wanted) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3");
    let mut config = if wanted.verify {
        builder.with_root_certificates(roots(wanted.ca.as_deref())?).with_no_client_auth()
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth()
    };
    config.alpn_protocols.clone_from(&wanted.alpn);
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The CAs in a file, or the host's own.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let certificates = match ca {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(path, &error))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(match ca {
            Some(path) => unreadable(path, &"there is no certificate of a CA in it (PEM)"),
            None => "this host has no CAs; install ca-certificates, or name a file with `ca`".to_owned(),
        });
    }
    Ok(roots)
}

/// `verify: false`: takes any certificate. The handshake itself still has to be right.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What to say of a certificate that has no more than `days` left. `None` also for one we cannot read: the handshake
/// was content with it.
fn expires_soon(leaf: &CertificateDer<'_>, days: u32, now: SystemTime) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(leaf).ok()?;
    let end = certificate.tbs_certificate.validity.not_after.to_system_time();
    match end.duration_since(now) {
        Ok(left) if left > DAY * days => None,
        Ok(left) => Some(format!("its certificate expires in {} ({})", in_days(left), date(end))),
        Err(_) if days == 0 => None,
        Err(past) => Some(format!("its certificate expired {} ago ({})", in_days(past.duration()), date(end))),
    }
}

fn in_days(time: Duration) -> String {
    match time.as_secs() / DAY.as_secs() {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// `2026-11-27`.
fn date(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).ok();
    let date = since.and_then(|since| DateTime::from_unix_duration(since).ok()).map(|date| date.to_string());
    date.as_deref().and_then(|text| text.get(..10)).unwrap_or("at no date").to_owned()
}

/// Why a handshake did not come about.
fn broken(error: &std::io::Error, alpn: &[&str]) -> String {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => in_words(error, alpn),
        None => match error.kind() {
            ConnectionReset => "connection reset during the TLS handshake".into(),
            UnexpectedEof | BrokenPipe => "connection closed during the TLS handshake".into(),
            _ => format!("connection failed during the TLS handshake: {error}"),
        },
    }
}

fn in_words(error: &Error, alpn: &[&str]) -> String {
    match error {
        Error::InvalidCertificate(why) => certificate_in_words(why),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol => disagreed(alpn),
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(_) => "no TLS version (1.2, 1.3) or cipher in common with the backend".into(),
        Error::AlertReceived(AlertDescription::UnrecognisedName) => "the backend does not know the name (SNI)".into(),
        Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            "the backend wants a certificate of the client, and checks have none".into()
        }
        Error::AlertReceived(alert) => format!("the backend refused the TLS handshake: {alert:?}"),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "the answer is not TLS".into(),
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn certificate_in_words(why: &CertificateError) -> String {
    let at = |time: &UnixTime| UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match why {
        CertificateError::ExpiredContext { time, not_after } => {
            let past = at(time).duration_since(at(not_after)).unwrap_or_default();
            format!("certificate expired {} ago ({})", in_days(past), date(at(not_after)))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}; is the clock of this host right?", date(at(not_before)))
        }
        CertificateError::UnknownIssuer => {
            "certificate is of no CA that is trusted here; `ca` names another, `verify: false` takes any".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut names: Vec<&str> = presented.iter().map(|name| readable(name)).collect();
            let more = names.len().saturating_sub(3);
            names.truncate(3);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let only = match names.as_slice() {
                [] => String::new(),
                names => format!(", only for {}{more}", names.join(", ")),
            };
            format!("certificate is not for {}{only}; `sni` says whom to ask for", expected.to_str())
        }
        // A self-signed certificate made by `openssl req -x509` is one of a CA.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "certificate is of a CA and no server's; sign one for the server with it, or `verify: false`".into()
        }
        other => format!("certificate refused: {other}"),
    }
}

/// The name in rustls' `DnsName("www.example.com")`.
fn readable(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

fn disagreed(alpn: &[&str]) -> String {
    format!("the backend does not speak {} (ALPN)", alpn.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_asked_for_is_the_hosts_without_its_port_or_else_the_address() {
        let table = [
            (Some("www.example.com"), "www.example.com"),
            (Some("www.example.com:8443"), "www.example.com"),
            (Some("192.0.2.9:8443"), "10.0.0.1"),
            (Some("[2001:db8::9]:8443"), "10.0.0.1"),
            (Some("not a name"), "10.0.0.1"),
            (None, "10.0.0.1"),
        ];
        for (host, expected) in table {
            assert_eq!(server_name("10.0.0.1:443".parse().unwrap(), host).to_str(), expected, "{host:?}");
        }
    }

    #[test]
    fn times_are_told_in_days() {
        assert_eq!(date(UNIX_EPOCH + Duration::from_secs(1_795_750_000)), "2026-11-27");
        for (hours, words) in [(0, "less than a day"), (23, "less than a day"), (24, "1 day"), (71, "2 days")] {
            assert_eq!(in_days(Duration::from_secs(hours * 3600)), words);
        }
    }
}
