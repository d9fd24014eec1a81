//! Lines of a stream, none longer than a bound.

use std::io::{Error, ErrorKind, Result};

use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Most bytes of one event of a watch: several times the largest object that a server of Kubernetes takes, written as JSON.
pub(crate) const MAX_EVENT: u64 = 32 << 20;

/// Most bytes of memory that the next line finds ready; a long line's is given back.
const KEPT: usize = 64 << 10;

/// Reads the next line into `line`, in the place of what was there, without its end; `false` when the stream has ended.
///
/// # Errors
/// The stream's own; `InvalidData` for a line of `max` bytes or more, and for one that is not UTF-8.
pub(crate) async fn next(stream: &mut (impl AsyncBufRead + Unpin), line: &mut String, max: u64) -> Result<bool> {
    let mut bytes = std::mem::take(line).into_bytes();
    bytes.clear();
    bytes.shrink_to(KEPT);
    let read = AsyncReadExt::take(stream, max).read_until(b'\n', &mut bytes).await?;
    match bytes.pop() {
        None => return Ok(false),
        Some(b'\n') => {}
        Some(_) if read as u64 == max => {
            return Err(Error::new(ErrorKind::InvalidData, format!("a line of more than {max} bytes")));
        }
        Some(last) => bytes.push(last),
    }
    *line = String::from_utf8(bytes).map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::io::Cursor;

    async fn lines(text: &[u8]) -> (Vec<String>, Option<ErrorKind>) {
        let (mut stream, mut line, mut all) = (Cursor::new(text.to_vec()), String::new(), vec![]);
        loop {
            match next(&mut stream, &mut line, 6).await {
                Ok(true) => all.push(line.clone()),
                Ok(false) => return (all, None),
                Err(error) => return (all, Some(error.kind())),
            }
        }
    }

    #[tokio::test]
    async fn lines_end_with_their_end_or_the_stream() {
        let bad = Some(ErrorKind::InvalidData);
        for (text, all, error) in [
            (&b""[..], &[][..], None),
            (b"a\n\nbcdef\n", &["a", "", "bcdef"], None),
            (b"a\ncut", &["a", "cut"], None),
            (b"a\nbcdefg\n", &["a"], bad),
            (b"a\nbcdefghi", &["a"], bad),
            (b"\xff\n", &[], bad),
        ] {
            let got = lines(text).await;
            assert_eq!(
                (got.0.iter().map(String::as_str).collect::<Vec<_>>(), got.1),
                (all.to_vec(), error),
                "{text:?}"
            );
        }
    }
}
