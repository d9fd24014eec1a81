//! Where the last lines of a file begin.

use std::io::{Read, Result, Seek, SeekFrom};

/// Bytes looked at once.
const BLOCK: u64 = 64 << 10;

/// The offset of the last `lines` lines of a file of `len` bytes. A last line without a newline counts. Blocking.
pub(super) fn offset<F: Read + Seek>(file: &mut F, len: u64, lines: u64) -> Result<u64> {
    if lines == 0 {
        return Ok(len);
    }
    let mut wanted = lines;
    let mut end = len;
    let mut buffer = vec![0; BLOCK as usize];
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let block = &mut buffer[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        for at in memchr::memrchr_iter(b'\n', block) {
            // The newline at the very end closes the last line; it does not begin another.
            if start + at as u64 + 1 == len {
                continue;
            }
            wanted -= 1;
            if wanted == 0 {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Cursor;

    fn tail(text: &str, lines: u64) -> String {
        let start = offset(&mut Cursor::new(text), text.len() as u64, lines).unwrap();
        text[start as usize..].to_string()
    }

    #[test]
    fn the_last_lines_are_found() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc\n", 3, "a\nb\nc\n"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\nc", 1, "c"),
            ("a\nb\nc\n", 0, ""),
            ("", 3, ""),
            ("\n\n\n", 2, "\n\n"),
        ] {
            assert_eq!(tail(text, lines), expected, "{text:?} {lines}");
        }
        let long: String = (0..50_000).map(|i| format!("line {i}\n")).collect();
        assert_eq!(tail(&long, 1), "line 49999\n");
        assert_eq!(tail(&long, 30_000).lines().next(), Some("line 20000"));
    }
}
