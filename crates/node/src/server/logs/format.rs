//! CRI's log format: `<RFC 3339 time> <stdout|stderr> <tags> <text>`, where tag `P` says that the line goes on.

use jiff::Timestamp;

use super::Options;

/// Which of the container's streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::server) enum Which {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// Turns log lines into what the client gets. It has no state but what is left of the byte limit and whether a line
/// goes on.
#[derive(Debug)]
pub(super) struct Formatter {
    timestamps: bool,
    since: Option<Timestamp>,
    which: Which,
    left: Option<u64>,
    continues: bool,
}

struct Line<'a> {
    time: &'a [u8],
    stderr: bool,
    partial: bool,
    text: &'a [u8],
}

impl Formatter {
    pub(super) fn new(options: &Options) -> Self {
        Formatter {
            timestamps: options.timestamps,
            since: options.since,
            which: options.which,
            left: options.limit,
            continues: false,
        }
    }

    /// Takes one line without its newline; `false` when the byte limit is reached. What is not in the format is
    /// left out, as upstream does.
    pub(super) fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(line) else { return true };
        let wanted = match self.which {
            Which::All => true,
            Which::Stdout => !line.stderr,
            Which::Stderr => line.stderr,
        };
        if !wanted || !self.since_allows(line.time) {
            return true;
        }
        if self.timestamps && !self.continues && !self.put(&[&fixed(line.time)[..], b" "].concat(), out) {
            return false;
        }
        self.continues = line.partial;
        self.put(line.text, out) && (line.partial || self.put(b"\n", out))
    }

    fn since_allows(&self, time: &[u8]) -> bool {
        let Some(since) = self.since else { return true };
        std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok()).is_none_or(|t| t >= since)
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(left) = &mut self.left else {
            out.extend_from_slice(bytes);
            return true;
        };
        let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        out.extend_from_slice(&bytes[..n]);
        *left -= n as u64;
        *left > 0
    }
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = split(line)?;
    let (stream, rest) = split(rest)?;
    // An empty line may have lost its last blank.
    let (tags, text) = split(rest).unwrap_or((rest, b""));
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    // The year's four digits: what does not start so is no time.
    (time.len() >= 20 && time[..4].iter().all(u8::is_ascii_digit)).then_some(Line { time, stderr, partial, text })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The time with nine digits of fraction, as upstream prints it, so that lines stay aligned and sortable.
fn fixed(time: &[u8]) -> Vec<u8> {
    let zone = time.iter().rposition(|b| matches!(b, b'Z' | b'+' | b'-')).unwrap_or(time.len());
    let (whole, zone) = time.split_at(zone);
    let (seconds, fraction) = match memchr::memchr(b'.', whole) {
        Some(dot) => (&whole[..dot], &whole[dot + 1..]),
        None => (whole, &b""[..]),
    };
    let mut out = Vec::with_capacity(35);
    out.extend_from_slice(seconds);
    out.push(b'.');
    out.extend_from_slice(&fraction[..fraction.len().min(9)]);
    out.extend(std::iter::repeat_n(b'0', 9usize.saturating_sub(fraction.len())));
    out.extend_from_slice(zone);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(options: Options, lines: &[&str]) -> (String, bool) {
        let mut formatter = Formatter::new(&options);
        let mut out = Vec::new();
        let more = lines.iter().all(|line| formatter.line(line.as_bytes(), &mut out));
        (String::from_utf8(out).unwrap(), more)
    }

    const LINES: [&str; 5] = [
        "2026-01-01T00:00:01.5Z stdout F one",
        "2026-01-01T00:00:02.123456789+02:00 stderr F two  blanks ",
        "2026-01-01T00:00:03Z stdout P par",
        "2026-01-01T00:00:04Z stdout F tial",
        "2026-01-01T00:00:05Z stdout F ",
    ];

    #[test]
    fn lines_are_joined_and_stripped() {
        assert_eq!(run(Options::default(), &LINES).0, "one\ntwo  blanks \npartial\n\n");
    }

    #[test]
    fn times_are_printed_once_a_line_and_aligned() {
        let options = Options { timestamps: true, ..Default::default() };
        let text = run(options, &LINES).0;
        let expected = "2026-01-01T00:00:01.500000000Z one\n2026-01-01T00:00:02.123456789+02:00 two  blanks \n\
                        2026-01-01T00:00:03.000000000Z partial\n2026-01-01T00:00:05.000000000Z \n";
        assert_eq!(text, expected);
    }

    #[test]
    fn since_stream_and_limit_choose() {
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(run(Options { since, ..Default::default() }, &LINES).0, "partial\n\n");
        assert_eq!(run(Options { which: Which::Stderr, ..Default::default() }, &LINES).0, "two  blanks \n");
        assert_eq!(run(Options { limit: Some(6), ..Default::default() }, &LINES), ("one\ntw".into(), false));
        assert_eq!(run(Options { limit: Some(3), ..Default::default() }, &LINES), ("one".into(), false));
    }

    #[test]
    fn what_is_not_in_the_format_is_left_out() {
        let lines = ["", "garbage", "2026-01-01T00:00:01Z other F x", "not-a-time stdout F x", LINES[0]];
        assert_eq!(run(Options::default(), &lines).0, "one\n");
    }
}
