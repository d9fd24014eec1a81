//! Stable hashes of templates and revisions, in the alphabet that upstream uses for names.

use serde::Serialize;

/// Letters and digits without vowels and look-alikes, so that no word is spelled by chance.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// 32-bit FNV-1a.
pub fn fnv32a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// Writes a string in the safe alphabet, one character for each byte.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// The hash of a serialisable value and a collision count, as it goes into names and the `pod-template-hash` label.
pub fn object_hash<T: Serialize>(value: &T, collision_count: Option<i32>) -> String {
    // Serialising plain API data into memory cannot fail; an empty text still yields a usable hash.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    if let Some(count) = collision_count {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    safe_encode(&fnv32a(bytes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_known_answers() {
        assert_eq!(fnv32a([]), 0x811c_9dc5);
        assert_eq!(fnv32a(*b"a"), 0xe40c_292c);
        assert_eq!(fnv32a(*b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn collision_count_changes_the_hash() {
        assert_ne!(object_hash(&"x", None), object_hash(&"x", Some(1)));
        assert_eq!(object_hash(&"x", Some(1)), object_hash(&"x", Some(1)));
    }
}
