//! Mutation of a corpus, the same for every target.

use std::time::{Duration, Instant};

/// What formats give a meaning to.
const WORDS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b"0.1",
    b"\"\"",
    b"{}",
    b"[]",
    b"[[[[",
    b"{\"a\":",
    b"\\u0000",
    b"\\ud800",
    b"\xff\xfe",
    b"\0",
    b"/",
    b"~1",
    b"..",
    b"%2e",
    b"$patch",
    b"*a",
    b"&a",
    b"!!binary ",
    b"\xc3\xa9",
];

/// A target: its corpus and its source of chance.
pub struct Fuzz<'a> {
    name: &'static str,
    corpus: Vec<&'a [u8]>,
    state: u64,
    seconds: Option<u64>,
}

/// Says what was fed when the target panics.
struct Told<'a>(&'a str, &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} was fed b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

impl<'a> Fuzz<'a> {
    /// A target that starts from `corpus`; the seed decides all that follows.
    pub fn new(name: &'static str, corpus: &[&'a [u8]], seed: u64) -> Self {
        let seconds: Option<u64> = std::env::var("CARAVEL_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
        let clock =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = if seconds.is_some() { clock | 1 } else { seed };
        Self { name, corpus: corpus.to_vec(), state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, seconds }
    }

    /// Feeds the corpus as it is, then `rounds` mutations of it, or as many as the asked seconds allow.
    pub fn run(mut self, rounds: usize, target: impl Fn(&[u8])) {
        let start = Instant::now();
        let mut round = 0;
        loop {
            let mut input = self.corpus[round % self.corpus.len()].to_vec();
            if round >= self.corpus.len() {
                for _ in 0..=self.below(6) {
                    self.mutate(&mut input);
                }
            }
            let begun = Instant::now();
            let told = Told(self.name, &input);
            target(&input);
            assert!(begun.elapsed() < Duration::from_secs(10), "{} took {:?}", self.name, begun.elapsed());
            drop(told);
            round += 1;
            let enough = match self.seconds {
                Some(seconds) => start.elapsed().as_secs() >= seconds,
                None => round >= rounds,
            };
            if enough {
                return;
            }
        }
    }

    /// xorshift64.
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let length = self.below(24).min(input.len() - at);
        match self.below(8) {
            0 if at < input.len() => {
                let bit = self.below(8);
                input[at] ^= 1 << bit;
            }
            1 if at < input.len() => input[at] = self.next() as u8,
            2 => drop(input.drain(at..at + length)),
            3 => {
                let piece = input[at..at + length].to_vec();
                let most = if self.below(20) == 0 { 400 } else { 4 };
                let copies = 1 + self.below(most);
                input.splice(at..at, piece.repeat(copies));
            }
            4 | 5 => {
                let which = self.below(WORDS.len());
                let word = WORDS[which];
                let over = if self.below(2) == 0 { length } else { 0 };
                input.splice(at..at + over, word.iter().copied());
            }
            6 => {
                let which = self.below(self.corpus.len());
                let other = self.corpus[which];
                let from = self.below(other.len());
                let to = (from + self.below(64)).min(other.len());
                input.splice(at..at + length, other[from..to].iter().copied());
            }
            _ => {
                let to = self.below(input.len() + 1);
                if at < to {
                    input[at..to].reverse();
                }
            }
        }
        input.truncate(1 << 16);
    }
}

/// The bytes as text, if they are.
#[allow(dead_code)]
pub fn utf8(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
