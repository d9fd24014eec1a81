//! JSON Web Tokens signed with ES256 (RFC 7515, RFC 7518 §3.4): making, checking, and publishing the keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};

/// The longest token looked at; a real one is about a kilobyte.
const MAX_TOKEN: usize = 16 * 1024;

/// Why a token was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwtError {
    /// Not three base64url parts of JSON.
    #[error("it is not a JSON Web Token")]
    Malformed,
    /// Another algorithm than ES256.
    #[error("it is signed with {0:?}; only ES256 is accepted")]
    Algorithm(String),
    /// Signed by a key that is not ours.
    #[error("its signature does not match any of the server's keys")]
    Signature,
    /// The signing key cannot be used.
    #[error("the signing key cannot be used: {0}")]
    Key(String),
}

/// A key pair that signs tokens and checks them.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// Names the key in a token's header and in the key set.
    pub key_id: String,
}

impl SigningKey {
    /// From PKCS#8 DER of a P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, JwtError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| JwtError::Key(e.to_string()))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        let key_id = URL_SAFE_NO_PAD.encode(digest.as_ref());
        Ok(Self { pair, random, key_id })
    }

    /// A signed token with these claims.
    pub fn sign(&self, claims: &Value) -> Result<String, JwtError> {
        let header = json!({"alg": "ES256", "kid": self.key_id}).to_string();
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.pair.sign(&self.random, token.as_bytes()).map_err(|e| JwtError::Key(e.to_string()))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Ok(token)
    }

    /// The claims of `token` when its signature is ours. Times, issuer and audience are the caller's to check.
    pub fn verify(&self, token: &str) -> Result<Value, JwtError> {
        let (header, claims, signature, signed) = split(token)?;
        let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        if algorithm != "ES256" {
            return Err(JwtError::Algorithm(algorithm.chars().take(32).collect()));
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| JwtError::Signature)?;
        Ok(claims)
    }

    /// The JSON Web Key Set (RFC 7517) that `/openid/v1/jwks` serves.
    pub fn key_set(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let (x, y) = (point.get(1..33).unwrap_or_default(), point.get(33..65).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

/// The issuer that an unverified token claims; tells whose token it is before any signature is checked.
pub fn claimed_issuer(token: &str) -> Option<String> {
    let (_, claims, ..) = split(token).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

/// Header, claims, signature, and what is signed, of an unverified token.
pub(super) fn split(token: &str) -> Result<(Value, Value, Vec<u8>, &str), JwtError> {
    if token.len() > MAX_TOKEN {
        return Err(JwtError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed);
    let parse = |part: &str| -> Result<Value, JwtError> {
        serde_json::from_slice(&decode(part)?).map_err(|_| JwtError::Malformed)
    };
    Ok((parse(header)?, parse(claims)?, decode(signature)?, signed))
}

#[cfg(test)]
#[path = "../../../api/tests/fuzz/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of strangers: none but the one that was signed is believed, and none is fatal.
    #[test]
    fn mutations_are_not_believed() {
        let key = key();
        let token = key.sign(&json!({"iss": "me", "sub": "you", "exp": 1})).unwrap();
        let none =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(r#"{"iss":"me"}"#));
        let corpus = [token.as_bytes(), none.as_bytes(), b"a.b.c", b"eyJhbGciOiJFUzI1NiJ9.e30."];
        super::mutate::Fuzz::new("tokens", &corpus, 11).run(3000, |bytes| {
            let Some(text) = super::mutate::utf8(bytes) else { return };
            let _ = claimed_issuer(text);
            if let Ok(claims) = key.verify(text) {
                assert_eq!((&claims["iss"], &claims["sub"]), (&json!("me"), &json!("you")));
            }
        });
    }

    fn key() -> SigningKey {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        SigningKey::from_pkcs8(document.as_ref()).unwrap()
    }

    #[test]
    fn what_is_signed_verifies() {
        let key = key();
        let token = key.sign(&json!({"iss": "me", "sub": "you"})).unwrap();
        assert_eq!(key.verify(&token).unwrap()["sub"], "you");
        assert_eq!(claimed_issuer(&token).as_deref(), Some("me"));
    }

    #[test]
    fn forgeries_do_not() {
        let (mine, other) = (key(), key());
        let token = other.sign(&json!({"sub": "you"})).unwrap();
        assert_eq!(mine.verify(&token), Err(JwtError::Signature));
        let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode("{}"));
        assert_eq!(mine.verify(&none), Err(JwtError::Algorithm("none".into())));
        for bad in ["", ".", "..", "a.b.c", "a.b", &"x".repeat(MAX_TOKEN + 1)] {
            assert_eq!(mine.verify(bad), Err(JwtError::Malformed), "{bad:.20}");
        }
        let token = mine.sign(&json!({"sub": "you"})).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let changed = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"sub":"root"}"#));
        assert_eq!(mine.verify(&changed), Err(JwtError::Signature));
    }
}
