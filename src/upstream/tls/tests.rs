use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::CertificateError;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::UnixTime;
use tokio::net::TcpListener;

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// For this name, until the end of that year.
    fn leaf(&self, name: &str, until: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 12, 31);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().clone()
    }
}

fn at(host: &str, port: u16) -> NodeAddr {
    NodeAddr { host: host.into(), port }
}

fn addr(host: &str) -> NodeAddr {
    at(host, 6379)
}

fn distrust() -> io::Error {
    let cause = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

#[test]
fn a_certificate_is_judged_as_the_mode_says() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let seed = name_of(&addr("discovery.test")).unwrap();
    // Host dialled, certificate, and whether full and ca take it.
    let cases = [
        ("10.0.0.5", ours.leaf("10.0.0.5", 4000), true, true),
        ("10.0.0.5", ours.leaf("discovery.test", 4000), true, true),
        ("node.test.", ours.leaf("node.test", 4000), true, true),
        ("10.0.0.5", ours.leaf("10.0.0.6", 4000), false, true),
        ("10.0.0.5", ours.leaf("10.0.0.5", 2020), false, false),
        ("10.0.0.5", theirs.leaf("10.0.0.5", 4000), false, false),
    ];
    for (host, leaf, full, ca) in cases {
        let name = name_of(&addr(host)).unwrap();
        for (mode, wanted) in [(Verify::Full, full), (Verify::Ca, ca), (Verify::Insecure, true)] {
            let authorities = [ours.certificate.der().clone()];
            let verifier =
                Verifier::new(mode, provider(), &authorities, vec![seed.clone()]).unwrap();
            let verdict = verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now());
            assert_eq!(verdict.is_ok(), wanted, "{mode:?} of {host}: {verdict:?}");
        }
    }
}

#[test]
fn what_cannot_be_used_leaves_what_was_trusted() {
    let (one, two) = (Authority::new(), Authority::new());
    let trust = Trust::new(Verify::Full, &[]);
    assert!(trust.encrypts());
    assert_eq!(trust.replace(one.pem().as_bytes()), Ok((1, true)));
    // The same again, in another order and twice, is no news: sessions stay.
    assert_eq!(trust.replace((one.pem() + &one.pem()).as_bytes()), Ok((1, false)));
    assert_eq!(trust.replace((two.pem() + &one.pem()).as_bytes()), Ok((2, true)));
    assert_eq!(trust.replace((one.pem() + "\n" + &two.pem()).as_bytes()), Ok((2, false)));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for text in ["", "no PEM", broken, "-----BEGIN CERTIFICATE-----\n!\n"] {
        assert!(trust.replace(text.as_bytes()).is_err(), "{text}");
    }
    assert!(format!("{trust:?}").contains("2 authorities"), "{trust:?}");
}

#[test]
fn each_node_has_sessions_of_its_own_until_authorities_change() {
    let authority = Authority::new();
    let verifier = |trusted: &[CertificateDer<'static>]| {
        Verifier::new(Verify::Full, provider(), trusted, Vec::new()).unwrap()
    };
    let certificates = vec![authority.certificate.der().clone()];
    let anchors = Anchors::new(certificates.clone(), verifier(&certificates));
    let (a, b) = (at("10.0.0.5", 11000), at("10.0.0.5", 11001));
    let plan = |addr| anchors.plan(addr).unwrap().config;
    assert!(Arc::ptr_eq(&plan(&a), &plan(&a)));
    assert!(!Arc::ptr_eq(&plan(&a), &plan(&b)));
}

#[tokio::test(start_paused = true)]
async fn no_connection_comes_about_before_authorities_are_known() {
    let trust = Trust::new(Verify::Full, &[]);
    let shake = async |_: TcpStream, _: Option<Plan>| Ok(());
    let limit = Duration::from_secs(5);
    let refused = trust.dial(&addr("127.0.0.1"), limit, shake).await;
    let Err(ConnectError::Tls(TlsError { cause, .. })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(cause, Refused::NoAuthorities);
}

/// The dial that meets an unknown authority asks for news and tries once more when they come.
#[tokio::test]
async fn a_distrusted_node_is_tried_again_once_when_authorities_were_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = at("127.0.0.1", port);
    let authority = Authority::new();
    for good_at in [2, 3] {
        let trust = Trust::new(Verify::Full, &[]);
        trust.replace(authority.pem().as_bytes()).unwrap();
        let (rung, tried) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let (bell, owner, pem) = (rung.clone(), trust.clone(), authority.pem());
        trust.on_untrusted(Arc::new(move || {
            bell.fetch_add(1, Ordering::Relaxed);
            owner.replace(pem.as_bytes()).unwrap();
        }));
        let shake = |_: TcpStream, plan: Option<Plan>| {
            assert!(plan.is_some());
            let nth = tried.fetch_add(1, Ordering::Relaxed) + 1;
            async move { if nth < good_at { Err(distrust()) } else { Ok(nth) } }
        };
        let made = trust.dial(&node, Duration::from_secs(20), shake).await;
        assert_eq!(made.is_ok(), good_at == 2, "{made:?}");
        assert_eq!(tried.load(Ordering::Relaxed), 2);
        assert_eq!(rung.load(Ordering::Relaxed), if good_at == 2 { 1 } else { 2 });
    }
}

#[test]
fn errors_of_the_handshake_say_what_to_do() {
    use rustls::{AlertDescription, Error, InvalidMessage};
    let of =
        |cause: Error| Refused::of(&io::Error::new(io::ErrorKind::InvalidData, cause)).to_string();
    let certificate = |cause| of(Error::InvalidCertificate(cause));
    for (text, wanted) in [
        (certificate(CertificateError::UnknownIssuer), "--server-ca-file"),
        (certificate(CertificateError::Expired), "the clock of this machine"),
        (certificate(CertificateError::NotValidForName), "--tls-verify=ca"),
        (of(InvalidMessage::InvalidContentType.into()), "--tls=false"),
        (of(Error::AlertReceived(AlertDescription::HandshakeFailure)), "refused the handshake"),
        (Refused::of(&io::ErrorKind::UnexpectedEof.into()).to_string(), "--tls=false"),
    ] {
        assert!(text.contains(wanted), "{text} does not say {wanted}");
    }
}
