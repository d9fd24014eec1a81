//! The keys of an issuer: read when the first token comes, and again when one names a key that is not known.

use crate::outbound::Extension;
use crate::registry::Registry;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The longest that reading a document may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Tokens with unknown keys make this server ask no more often than this.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys that are kept of one issuer.
const MOST: usize = 64;

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
}

/// A key with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    id: String,
    key: Key,
}

#[derive(Default)]
struct State {
    keys: Vec<Named>,
    asked: Option<Instant>,
}

/// The keys of one issuer.
pub struct Keys {
    issuer: String,
    discovery: String,
    authority: String,
    state: tokio::sync::Mutex<State>,
}

impl Keys {
    /// Of the issuer at this URL, found through this discovery document; `authority` is PEM, or empty for the system's.
    pub fn new(issuer: String, discovery: String, authority: String) -> Self {
        Self { issuer, discovery, authority, state: tokio::sync::Mutex::default() }
    }

    /// Whether `signature` over `signed` is the issuer's.
    ///
    /// # Errors
    /// Why it is not, or why the keys could not be read.
    pub async fn verify(
        &self,
        registry: &Registry,
        header: &Value,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), String> {
        let text = |field: &str| header.get(field).and_then(Value::as_str).unwrap_or_default();
        let (algorithm, id) = (text("alg"), text("kid"));
        let mut state = self.state.lock().await;
        let known = state.keys.iter().any(|key| id.is_empty() || key.id == id);
        if !known && state.asked.is_none_or(|at| at.elapsed() >= PAUSE) {
            state.asked = Some(Instant::now());
            state.keys = self.read(registry).await?;
        }
        let mut candidates = state.keys.iter().filter(|key| id.is_empty() || key.id == id);
        if candidates.any(|key| key.key.verifies(algorithm, signed, signature)) {
            return Ok(());
        }
        Err("its signature does not match any of the issuer's keys".into())
    }

    async fn read(&self, registry: &Registry) -> Result<Vec<Named>, String> {
        let document = self.get(registry, &self.discovery).await?;
        let said = document.get("issuer").and_then(Value::as_str).unwrap_or_default();
        if said != self.issuer {
            return Err(format!("the document {} is of the issuer {said:?}, not of {:?}", self.discovery, self.issuer));
        }
        let uri = document.get("jwks_uri").and_then(Value::as_str).unwrap_or_default();
        let set = self.get(registry, uri).await?;
        let keys = set.get("keys").and_then(Value::as_array).into_iter().flatten();
        Ok(keys.filter_map(named).take(MOST).collect())
    }

    async fn get(&self, registry: &Registry, url: &str) -> Result<Value, String> {
        let config = json!({"url": url, "caBundle": STANDARD.encode(&self.authority)});
        Extension::from_client_config(&config)?.read(registry, DEADLINE).await
    }
}

fn named(key: &Value) -> Option<Named> {
    let text = |field: &str| key.get(field).and_then(Value::as_str).unwrap_or_default();
    let bytes = |field: &str| URL_SAFE_NO_PAD.decode(text(field).trim_end_matches('=')).ok();
    if !matches!(text("use"), "" | "sig") {
        return None;
    }
    let point = || Some([vec![4], bytes("x")?, bytes("y")?].concat());
    let found = match (text("kty"), text("crv")) {
        ("RSA", _) => Key::Rsa { modulus: bytes("n")?, exponent: bytes("e")? },
        ("EC", "P-256") => Key::P256(point()?),
        ("EC", "P-384") => Key::P384(point()?),
        _ => return None,
    };
    Some(Named { id: text("kid").to_owned(), key: found })
}

impl Key {
    fn verifies(&self, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa { modulus, exponent } => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, signed, signature).is_ok()
            }
            Self::P256(point) if algorithm == "ES256" => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
            }
            Self::P384(point) if algorithm == "ES384" => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(signed, signature).is_ok()
            }
            Self::P256(_) | Self::P384(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_read() {
        let text = URL_SAFE_NO_PAD.encode([7; 32]);
        let ec = json!({"kty": "EC", "crv": "P-256", "kid": "a", "x": text, "y": text});
        assert_eq!(named(&ec).unwrap().key, Key::P256([vec![4], vec![7; 64]].concat()));
        let rsa = json!({"kty": "RSA", "kid": "b", "n": text, "e": "AQAB", "use": "sig"});
        assert_eq!(named(&rsa).unwrap().key, Key::Rsa { modulus: vec![7; 32], exponent: vec![1, 0, 1] });
        for other in [json!({"kty": "oct", "k": "AA"}), json!({"kty": "RSA", "use": "enc", "n": text, "e": "AQAB"})] {
            assert_eq!(named(&other), None);
        }
    }

    /// A symmetric algorithm, or none, is never good for a public key.
    #[test]
    fn algorithms_belong_to_keys() {
        let key = Key::P256([vec![4], vec![7; 64]].concat());
        for algorithm in ["none", "HS256", "RS256", "ES384", ""] {
            assert!(!key.verifies(algorithm, b"x", b"y"), "{algorithm}");
        }
    }
}
