//! A forward scanner over JSON bytes that builds nothing.

use memchr::memchr2;
use std::borrow::Cow;

/// The bytes are no JSON (or nest too deeply).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON at byte {at}")]
pub struct ScanError {
    /// Offset of the trouble.
    pub at: usize,
}

/// A position in JSON text, moved forward value by value.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// At the first value of `json`.
    pub fn new(json: &'a [u8]) -> Scan<'a> {
        Scan { json, at: 0 }
    }

    /// The offset of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    fn fail<T>(&self) -> Result<T, ScanError> {
        Err(ScanError { at: self.at })
    }

    fn blank(&mut self) {
        while matches!(self.json.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// The first byte of the next value.
    fn peek(&mut self) -> Result<u8, ScanError> {
        self.blank();
        self.json.get(self.at).copied().ok_or(ScanError { at: self.at })
    }

    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.peek()? != byte {
            return self.fail();
        }
        self.at += 1;
        Ok(())
    }

    /// Steps over the members of the object here; `member` must consume the value of each key. A value of
    /// another type is stepped over as if it were empty.
    pub fn object(
        &mut self,
        mut member: impl FnMut(&mut Scan<'a>, Cow<'a, str>) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        self.object_until(|scan, key| member(scan, key).map(|()| true))
    }

    /// As [`Scan::object`], but leaves off inside the object as soon as `member` answers false.
    pub fn object_until(
        &mut self,
        mut member: impl FnMut(&mut Scan<'a>, Cow<'a, str>) -> Result<bool, ScanError>,
    ) -> Result<(), ScanError> {
        if self.peek()? != b'{' {
            return if self.at == 0 { self.fail() } else { self.skip() };
        }
        self.at += 1;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.text()?;
            self.expect(b':')?;
            if !member(self, key)? {
                return Ok(());
            }
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fail(),
            }
        }
    }

    /// The raw bytes between the quotes of the string here, and whether they hold escapes.
    fn raw(&mut self) -> Result<(&'a [u8], bool), ScanError> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escapes = false;
        loop {
            let Some(found) = memchr2(b'"', b'\\', &self.json[self.at..]) else { return self.fail() };
            self.at += found;
            if self.json[self.at] == b'"' {
                self.at += 1;
                return Ok((&self.json[start..self.at - 1], escapes));
            }
            escapes = true;
            if self.at + 2 > self.json.len() {
                return self.fail();
            }
            self.at += 2;
        }
    }

    /// The string here, borrowed when it holds no escapes.
    pub fn text(&mut self) -> Result<Cow<'a, str>, ScanError> {
        self.blank();
        let start = self.at;
        let (raw, escapes) = self.raw()?;
        if escapes {
            let whole = &self.json[start..self.at];
            return serde_json::from_slice::<String>(whole).map(Cow::Owned).map_err(|_| ScanError { at: start });
        }
        std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| ScanError { at: start })
    }

    /// The string here, or `None` after stepping over a value of another type.
    pub fn text_or_skip(&mut self) -> Result<Option<Cow<'a, str>>, ScanError> {
        if self.peek()? == b'"' {
            return self.text().map(Some);
        }
        self.skip()?;
        Ok(None)
    }

    /// The text of the string, number or boolean here, or `None` after stepping over null, a list or an object.
    pub fn scalar_or_skip(&mut self) -> Result<Option<Cow<'a, str>>, ScanError> {
        match self.peek()? {
            b'"' => self.text().map(Some),
            b'{' | b'[' | b'n' => {
                self.skip()?;
                Ok(None)
            }
            _ => {
                let start = self.at;
                self.skip()?;
                let word = &self.json[start..self.at];
                std::str::from_utf8(word).map(|word| Some(Cow::Borrowed(word))).map_err(|_| ScanError { at: start })
            }
        }
    }

    /// Steps over the value here, of any type. Brackets are counted, not matched by kind.
    pub fn skip(&mut self) -> Result<(), ScanError> {
        match self.peek()? {
            b'"' => {
                self.raw()?;
                return Ok(());
            }
            b'{' | b'[' => {}
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                while self.json.get(self.at).is_some_and(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)) {
                    self.at += 1;
                }
                return Ok(());
            }
            _ => return self.fail(),
        }
        let mut depth = 0_usize;
        loop {
            match self.json.get(self.at) {
                None => return self.fail(),
                Some(b'"') => {
                    self.raw()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth -= 1,
                Some(_) => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }
}
