//! What tells this API server from others of the same cluster.

use sha2::{Digest as _, Sha256};

/// The identity as upstream makes it (KEP-1965): of the machine's name, and the same after a restart.
pub fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    of(host.trim())
}

fn of(host: &str) -> String {
    format!("apiserver-{}", base32(&Sha256::digest(host)[..16]))
}

/// RFC 4648 §6 without padding, in lower case.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let (mut out, mut bits, mut held) = (String::new(), 0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8 | u32::from(*byte)) & 0xfff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(LETTERS[(held >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        out.push(char::from(LETTERS[(held << (5 - bits) & 31) as usize]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn hosts_have_identities_of_their_own() {
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a").len(), "apiserver-".len() + 26);
    }
}
