//! Strings as numbers.
//!
//! Labels, namespaces and names are compared millions of times a second and stored by the hundred thousand. A [`Sym`] is a keyed 64-bit hash of the string:
//! it needs no table that would have to be shared, locked and swept. Two different strings have the same one with a probability of
//! 2⁻⁶⁴, and the key is random for each process, so nobody can arrange it.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::OnceLock;

/// A string, for comparing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sym(u64);

impl Sym {
    /// The symbol of a string.
    pub fn of(text: &str) -> Self {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        Self(KEY.get_or_init(RandomState::new).hash_one(text))
    }
}

/// A hasher for keys that are made of hashes already.
#[derive(Default, Clone, Copy)]
pub struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(26) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// A map from keys made of symbols.
pub type SymMap<K, V> = HashMap<K, V, BuildHasherDefault<Mixed>>;
