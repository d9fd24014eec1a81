//! From a token to trust and a first certificate.

use super::INFO;
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use ring::hmac;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::time::Duration;

/// How long a node waits for somebody to sign.
const SIGNED: Duration = Duration::from_secs(600);
/// A new token is not signed for at once.
const ANNOUNCED: Duration = Duration::from_secs(20);

/// Base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The parts of `abcdef.0123456789abcdef`.
pub fn bootstrap_token(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.split_once('.')?;
    let plain = |t: &str, n: usize| t.len() == n && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

/// The SHA-256 of an authority's public key, written `sha256:HEX`, as kubeadm's `--discovery-token-ca-cert-hash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Pin {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let explain = || format!("{text:?} is no hash of an authority: it must be `sha256:` and 64 hexadecimal digits");
        let hex = text.strip_prefix("sha256:").filter(|h| h.len() == 64 && h.is_ascii()).with_context(explain)?;
        let mut out = [0; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).with_context(explain)?;
        }
        Ok(Pin(out))
    }
}

impl Pin {
    /// Of the first certificate in the PEM.
    pub fn of_pem(pem: &str) -> Result<Pin> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).context("the authority's certificate is not PEM")?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).context("the authority's certificate")?;
        Ok(Pin(Sha256::digest(certificate.public_key().raw).into()))
    }
}

/// A token, and the authority that its holder may trust.
#[derive(Clone, Debug)]
pub struct Credential {
    pub id: String,
    pub secret: String,
    pub pin: Pin,
}

impl Credential {
    /// Reads `ID.SECRET@sha256:HEX`, or `ID.SECRET` with the hash given apart.
    pub fn parse(token: &str, hash: Option<&str>) -> Result<Credential> {
        let (token, pinned) = match token.split_once('@') {
            Some((token, pin)) => (token, Some(pin)),
            None => (token, hash),
        };
        let Some((id, secret)) = bootstrap_token(token) else {
            bail!("the token must look like abcdef.0123456789abcdef; `caravel token create` on the server makes one");
        };
        let Some(pin) = pinned else {
            bail!(
                "the token names no authority: give the whole token that `caravel token create` printed (TOKEN@sha256:…), or \
                 the hash by --ca-cert-hash; without it anybody between could pose as the cluster"
            );
        };
        Ok(Credential { id: id.into(), secret: secret.into(), pin: pin.parse()? })
    }

    fn token(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

/// What `cluster-info` says.
#[derive(Clone, Debug)]
pub struct Info {
    pub server: String,
    pub ca_pem: String,
}

impl Info {
    /// Reads the kubeconfig in the ConfigMap.
    pub fn read(map: &ConfigMap) -> Result<Info> {
        let text = kubeconfig(map)?;
        let config: serde_json::Value = serde_yaml::from_str(text).context("the kubeconfig in cluster-info")?;
        let cluster = &config["clusters"][0]["cluster"];
        let field = |name: &str| cluster[name].as_str().with_context(|| format!("cluster-info has no {name}"));
        let ca = STANDARD.decode(field("certificate-authority-data")?).context("the authority in cluster-info")?;
        Ok(Info { server: field("server")?.to_owned(), ca_pem: String::from_utf8(ca)? })
    }
}

fn kubeconfig(map: &ConfigMap) -> Result<&String> {
    map.data.as_ref().and_then(|d| d.get("kubeconfig")).context("cluster-info has no kubeconfig")
}

/// Whether somebody who knows the token's secret signed the kubeconfig (a detached JWS, RFC 7515 appendix F).
fn verify(map: &ConfigMap, credential: &Credential) -> Result<()> {
    let key = format!("jws-kubeconfig-{}", credential.id);
    let signature = map.data.as_ref().and_then(|d| d.get(&key)).with_context(|| {
        format!(
            "the cluster knows no token {}; it may have expired: make a new one with `caravel token create`",
            credential.id
        )
    })?;
    let wrong = || format!("cluster-info is not signed with the secret of token {}", credential.id);
    let (header, mac) = signature.split_once("..").with_context(wrong)?;
    let payload = URL_SAFE_NO_PAD.encode(kubeconfig(map)?);
    let mac = URL_SAFE_NO_PAD.decode(mac).with_context(wrong)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, credential.token().as_bytes());
    hmac::verify(&key, format!("{header}.{payload}").as_bytes(), &mac).ok().with_context(wrong)
}

/// The authority of the cluster at `server`, which the credential vouches for.
pub async fn discover(server: &http::Uri, credential: &Credential) -> Result<String> {
    // Nobody is trusted yet: what is read here counts only if it is signed and is what was pinned.
    let mut config = kube::Config::new(server.clone());
    config.accept_invalid_certs = true;
    let client = kube::Client::try_from(config)?;
    let maps: Api<ConfigMap> = Api::namespaced(client, INFO.0);
    let announced = async {
        loop {
            let map = maps.get(INFO.1).await.with_context(|| format!("{server} does not say how to join it"))?;
            match verify(&map, credential) {
                Ok(()) => return Ok(map),
                Err(error)
                    if map.data.iter().flatten().any(|(k, _)| *k == format!("jws-kubeconfig-{}", credential.id)) =>
                {
                    return Err(error);
                }
                // The cluster signs a moment after the token was made.
                Err(error) => tracing::debug!("{error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let map = match tokio::time::timeout(ANNOUNCED, announced).await {
        Ok(map) => map?,
        Err(_) => {
            let map = maps.get(INFO.1).await?;
            verify(&map, credential)?;
            map
        }
    };
    let info = Info::read(&map)?;
    let found = Pin::of_pem(&info.ca_pem)?;
    if found != credential.pin {
        bail!("the authority of {server} is {found}, and the token is for a cluster with {}", credential.pin);
    }
    Ok(info.ca_pem)
}

/// A client that shows the token.
pub fn with_token(server: &http::Uri, ca_pem: &str, credential: &Credential) -> Result<kube::Client> {
    let mut config = kube::Config::new(server.clone());
    let ca: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca_pem.as_bytes()).collect();
    config.root_cert = Some(ca.context("the authority's certificate")?.iter().map(|c| c.to_vec()).collect());
    config.auth_info.token = Some(credential.token().into());
    Ok(kube::Client::try_from(config)?)
}

/// What a certificate is asked for.
pub struct Wanted<'a> {
    pub signer: &'a str,
    /// `client auth` or `server auth`.
    pub purpose: &'a str,
    /// PEM of the PKCS #10 request.
    pub request_pem: String,
}

/// Asks for a certificate and waits until it is signed; its PEM.
pub async fn certificate(client: &kube::Client, wanted: Wanted<'_>) -> Result<String> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let request = CertificateSigningRequest {
        metadata: kube::core::ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(wanted.request_pem.into_bytes()),
            signer_name: wanted.signer.to_owned(),
            usages: Some(vec!["digital signature".into(), wanted.purpose.to_owned()]),
            ..Default::default()
        },
        status: None,
    };
    let made = api.create(&PostParams::default(), &request).await.context("a certificate could not be asked for")?;
    let name = made.metadata.name.clone().unwrap_or_default();
    match tokio::time::timeout(SIGNED, signed(&api, &name)).await {
        Ok(signed) => signed,
        Err(_) => bail!("nobody signed {name} within {} s; `kubectl certificate approve {name}`", SIGNED.as_secs()),
    }
}

async fn signed(api: &Api<CertificateSigningRequest>, name: &str) -> Result<String> {
    let fields = format!("metadata.name={name}");
    loop {
        let now = api.get(name).await?;
        if let Some(pem) = outcome(&now)? {
            return Ok(pem);
        }
        let from = now.metadata.resource_version.unwrap_or_default();
        let mut events = api.watch(&WatchParams::default().fields(&fields), &from).await?.boxed();
        while let Ok(Some(event)) = events.try_next().await {
            if let WatchEvent::Added(csr) | WatchEvent::Modified(csr) = event
                && let Some(pem) = outcome(&csr)?
            {
                return Ok(pem);
            }
        }
    }
}

fn outcome(csr: &CertificateSigningRequest) -> Result<Option<String>> {
    let Some(status) = &csr.status else { return Ok(None) };
    if let Some(no) = status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed")) {
        bail!("the certificate was refused ({}): {}", no.type_, no.message.as_deref().unwrap_or_default());
    }
    match &status.certificate {
        Some(pem) if !pem.0.is_empty() => Ok(Some(String::from_utf8(pem.0.clone())?)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_and_tokens() {
        let hex = "ab".repeat(32);
        let token = format!("abcdef.0123456789abcdef@sha256:{hex}");
        let parsed = Credential::parse(&token, None).expect("whole");
        assert_eq!((parsed.id.as_str(), parsed.pin.to_string()), ("abcdef", format!("sha256:{hex}")));
        assert!(Credential::parse("abcdef.0123456789abcdef", Some(&format!("sha256:{hex}"))).is_ok());
        let error = Credential::parse("abcdef.0123456789abcdef", None).expect_err("no pin").to_string();
        assert!(error.contains("--ca-cert-hash"), "{error}");
        for bad in
            ["", "abc", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef@sha256:xy", "abcdef.0123456789abcdef@md5:0"]
        {
            assert!(Credential::parse(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_pin_is_of_the_public_key() {
        let key = rcgen::KeyPair::generate().expect("key");
        let params = || rcgen::CertificateParams::new(vec!["a".to_owned()]).expect("parameters");
        let (one, two) = (params().self_signed(&key).expect("one"), params().self_signed(&key).expect("two"));
        assert_eq!(Pin::of_pem(&one.pem()).expect("pin"), Pin::of_pem(&two.pem()).expect("pin"));
        let other = rcgen::KeyPair::generate().expect("key");
        let third = params().self_signed(&other).expect("three");
        assert_ne!(Pin::of_pem(&one.pem()).expect("pin"), Pin::of_pem(&third.pem()).expect("pin"));
    }

    #[test]
    fn only_the_secret_signs() {
        let credential =
            Credential::parse(&format!("abcdef.0123456789abcdef@sha256:{}", "00".repeat(32)), None).expect("token");
        let sign = |secret: &str| {
            let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"abcdef"}"#);
            let key = hmac::Key::new(hmac::HMAC_SHA256, format!("abcdef.{secret}").as_bytes());
            let mac = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode("config")).as_bytes());
            format!("{header}..{}", URL_SAFE_NO_PAD.encode(mac.as_ref()))
        };
        let map = |signature: String| ConfigMap {
            data: Some([("kubeconfig".into(), "config".into()), ("jws-kubeconfig-abcdef".into(), signature)].into()),
            ..Default::default()
        };
        assert!(verify(&map(sign("0123456789abcdef")), &credential).is_ok());
        assert!(verify(&map(sign("0000000000000000")), &credential).is_err());
        assert!(verify(&map("nonsense".into()), &credential).is_err());
    }
}
