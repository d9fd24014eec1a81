//! Encryption at rest: Secrets are stored sealed with AES-256-GCM.
//!
//! A sealed value is `cvlseal:1:KEYID:REVISION:` and then nonce and ciphertext. The revision stays outside, because the
//! store writes it; the store's key is authenticated with the ciphertext, so that a sealed value cannot be moved to
//! another name. The first line of `DIR/pki/encryption.keys` seals; all lines unseal, so that a key is rotated by putting
//! a new line in front and writing every Secret once.

use super::codec;
use bytes::Bytes;
use parking_lot::RwLock;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8] = b"cvlseal:1:";

/// Why a value could not be sealed or unsealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file is not usable.
    #[error("the encryption keys in {path} cannot be used: {reason}")]
    Keys {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The value was sealed with a key that is not in the file.
    #[error("a stored Secret was encrypted with the key {0:?}, which is not among the server's encryption keys")]
    UnknownKey(String),
    /// The value was changed or moved.
    #[error("a stored Secret cannot be decrypted: it was damaged or moved")]
    Damaged,
}

/// The file of the keys, in the directory of the server's keys.
pub const FILE: &str = "encryption.keys";

#[derive(Clone)]
struct Key {
    id: String,
    key: Arc<LessSafeKey>,
}

/// Keys that were set aside.
pub struct Keys(Vec<Key>);

/// The keys of a file's text, in its order.
fn parse(text: &str) -> Result<Vec<Key>, String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut keys = vec![];
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (id, encoded) = line.split_once(' ').ok_or("a line is not `ID BASE64`")?;
        if id.contains(':') || id.len() > 64 {
            return Err(format!("the key name {id:?} is too long or has a colon"));
        }
        let bytes = STANDARD.decode(encoded.trim()).map_err(|e| format!("key {id:?}: {e}"))?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| format!("key {id:?} is not 32 bytes"))?;
        keys.push(Key { id: id.to_owned(), key: Arc::new(LessSafeKey::new(key)) });
    }
    if keys.is_empty() { Err("there is no key".into()) } else { Ok(keys) }
}

/// The name of the key that sealed these bytes.
fn key_of(stored: &[u8]) -> Option<&[u8]> {
    let rest = stored.strip_prefix(MAGIC)?;
    rest.get(..memchr::memchr(b':', rest)?)
}

/// The keys, newest first.
pub struct Seal {
    keys: RwLock<Vec<Key>>,
    random: SystemRandom,
}

impl Seal {
    /// Reads `dir/encryption.keys` (lines `ID BASE64`), making it with one key when absent.
    pub fn open(dir: &Path) -> Result<Self, SealError> {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let path = dir.join(FILE);
        let failed = |reason: String| SealError::Keys { path: path.display().to_string(), reason };
        let random = SystemRandom::new();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = [0; 32];
                random.fill(&mut bytes).map_err(|_| failed("no randomness".into()))?;
                let line = format!("key1 {}\n", STANDARD.encode(bytes));
                crate::pki::write_private(&path, line.as_bytes()).map_err(|e| failed(e.to_string()))?;
                line
            }
            Err(e) => return Err(failed(e.to_string())),
        };
        Ok(Self { keys: RwLock::new(parse(&text).map_err(failed)?), random })
    }

    /// Takes the keys of a changed file; what `stored` needs must be among them. The old keys stay when they are not.
    ///
    /// # Errors
    /// What is wrong with the text, or which key is missing.
    pub fn replace<'a>(&self, text: &str, stored: impl IntoIterator<Item = &'a [u8]>) -> Result<(), String> {
        let next = parse(text)?;
        let ids: Vec<&[u8]> = next.iter().map(|key| key.id.as_bytes()).collect();
        for bytes in stored {
            if let Some(id) = key_of(bytes).filter(|id| !ids.contains(id)) {
                let id = String::from_utf8_lossy(id);
                return Err(format!("the key {id:?} is missing, under which Secrets are still stored"));
            }
        }
        *self.keys.write() = next;
        Ok(())
    }

    /// Whether the keys are those of a file's text.
    pub fn is_of(&self, text: &str) -> bool {
        let keys = self.keys.read();
        parse(text).is_ok_and(|said| said.iter().map(|key| &key.id).eq(keys.iter().map(|key| &key.id)))
    }

    /// The keys as they are, to be brought back by [`Self::restore`].
    pub fn keys(&self) -> Keys {
        Keys(self.keys.read().clone())
    }

    /// Brings keys back.
    pub fn restore(&self, keys: Keys) {
        *self.keys.write() = keys.0;
    }

    /// Whether stored bytes are sealed.
    pub fn is_sealed(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// Whether stored bytes were sealed with the newest key, so that writing them again changes nothing.
    pub fn is_current(&self, bytes: &[u8]) -> bool {
        let keys = self.keys.read();
        let Some(newest) = keys.first() else { return true };
        bytes
            .strip_prefix(MAGIC)
            .is_some_and(|rest| rest.strip_prefix(newest.id.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':')))
    }

    /// Seals an encoded object for the store's `key`.
    pub fn seal(&self, key: &str, encoded: &codec::Encoded) -> Result<codec::Encoded, SealError> {
        let keys = self.keys.read();
        let newest = keys.first().ok_or(SealError::Damaged)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealError::Damaged)?;
        let mut cipher = encoded.bytes.clone();
        newest
            .key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key.as_bytes()), &mut cipher)
            .map_err(|_| SealError::Damaged)?;
        let mut bytes = Vec::with_capacity(MAGIC.len() + newest.id.len() + 2 + NONCE_LEN + cipher.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(newest.id.as_bytes());
        bytes.push(b':');
        let revision_at = bytes.len();
        bytes.push(b':');
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&cipher);
        Ok(codec::Encoded { bytes, revision_at })
    }

    /// The object that `seal` was given, its revision filled in.
    pub fn unseal(&self, key: &str, bytes: &[u8]) -> Result<Bytes, SealError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(SealError::Damaged)?;
        let colon = memchr::memchr(b':', rest).ok_or(SealError::Damaged)?;
        let (id, rest) = (&rest[..colon], &rest[colon + 1..]);
        let colon = memchr::memchr(b':', rest).ok_or(SealError::Damaged)?;
        let (revision, rest) = (&rest[..colon], &rest[colon + 1..]);
        let (nonce, cipher) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::Damaged)?;
        let keys = self.keys.read();
        let one = keys
            .iter()
            .find(|k| k.id.as_bytes() == id)
            .ok_or_else(|| SealError::UnknownKey(String::from_utf8_lossy(id).into_owned()))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Damaged)?;
        let mut plain = cipher.to_vec();
        let len =
            one.key.open_in_place(nonce, Aad::from(key.as_bytes()), &mut plain).map_err(|_| SealError::Damaged)?.len();
        plain.truncate(len);
        if let Some(at) = codec::revision_at(&plain) {
            plain.splice(at..at, revision.iter().copied());
        }
        Ok(plain.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caravel_store::splice_revision;
    use serde_json::{Value, json};

    #[test]
    fn sealing_keeps_the_object_and_hides_it() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::open(dir.path()).unwrap();
        let object =
            json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "data": {"a": "aGlkZGVu"}});
        let sealed = seal.seal("core/secrets/n/s", &codec::encode(&object).unwrap()).unwrap();
        let stored = splice_revision(&sealed.bytes, sealed.revision_at, 42);
        assert!(Seal::is_sealed(&stored) && seal.is_current(&stored));
        assert!(memchr::memmem::find(&stored, b"aGlkZGVu").is_none());
        let again = Seal::open(dir.path()).unwrap();
        let plain: Value = serde_json::from_slice(&again.unseal("core/secrets/n/s", &stored).unwrap()).unwrap();
        assert_eq!(plain["metadata"]["resourceVersion"], "42");
        assert_eq!(plain["data"], object["data"]);
        assert!(matches!(again.unseal("core/secrets/n/other", &stored), Err(SealError::Damaged)));
        let mut broken = stored.to_vec();
        *broken.last_mut().unwrap() ^= 1;
        assert!(matches!(again.unseal("core/secrets/n/s", &broken), Err(SealError::Damaged)));
    }

    #[test]
    fn a_new_key_in_front_seals_and_old_ones_unseal() {
        let dir = tempfile::tempdir().unwrap();
        let object = codec::encode(&json!({"kind": "Secret", "apiVersion": "v1"})).unwrap();
        let old = Seal::open(dir.path()).unwrap();
        let stored = splice_revision(
            &old.seal("a/b/c", &object).unwrap().bytes,
            old.seal("a/b/c", &object).unwrap().revision_at,
            1,
        );
        let path = dir.path().join("encryption.keys");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("key2 {}\n{text}", "A".repeat(43) + "=")).unwrap();
        let new = Seal::open(dir.path()).unwrap();
        assert!(!new.is_current(&stored));
        new.unseal("a/b/c", &stored).unwrap();
        assert!(seal_id(&new.seal("a/b/c", &object).unwrap().bytes) == "key2");
    }

    #[test]
    fn keys_that_are_needed_stay() {
        let dir = tempfile::tempdir().unwrap();
        let object = codec::encode(&json!({"kind": "Secret", "apiVersion": "v1"})).unwrap();
        let seal = Seal::open(dir.path()).unwrap();
        let sealed = seal.seal("a/b/c", &object).unwrap();
        let stored = splice_revision(&sealed.bytes, sealed.revision_at, 1);
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let new = format!("key2 {}\n", "A".repeat(43) + "=");
        for (bad, why) in [(new.as_str(), "\"key1\" is missing"), ("", "no key"), ("key1 x", "key1")] {
            let said = seal.replace(bad, [&stored[..]]).unwrap_err();
            assert!(said.contains(why), "{said}");
            assert!(seal.is_current(&stored) && seal.unseal("a/b/c", &stored).is_ok(), "the old keys stay");
        }
        seal.replace(&format!("{new}{text}"), [&stored[..]]).unwrap();
        assert!(!seal.is_current(&stored) && seal.unseal("a/b/c", &stored).is_ok());
        seal.replace(&new, []).unwrap();
        assert!(seal.unseal("a/b/c", &stored).is_err());
    }

    fn seal_id(bytes: &[u8]) -> &str {
        std::str::from_utf8(&bytes[MAGIC.len()..])
            .unwrap_or_else(|e| std::str::from_utf8(&bytes[MAGIC.len()..MAGIC.len() + e.valid_up_to()]).unwrap())
            .split(':')
            .next()
            .unwrap()
    }
}
