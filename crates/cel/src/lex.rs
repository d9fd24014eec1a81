//! Source text to tokens.

/// A token and the character it begins at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub kind: TokenKind,
    pub at: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    Ident(String),
    /// A field name in backquotes.
    Quoted(String),
    Int(i64),
    /// The magnitude of the smallest integer, good only behind a minus.
    IntMin,
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// Punctuation and operators.
    Sign(&'static str),
    End,
}

/// What cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub at: u32,
    pub text: String,
}

const SIGNS: [&str; 28] = [
    "&&", "||", "==", "!=", "<=", ">=", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%",
    "<", ">", "=", "&", "|", "@",
];

pub(crate) fn tokens(source: &str) -> Result<Vec<Token>, Problem> {
    let chars: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { chars, at: 0, out: vec![] };
    while lexer.next()? {}
    Ok(lexer.out)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    out: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn problem<T>(&self, at: usize, text: impl Into<String>) -> Result<T, Problem> {
        Err(Problem { at: at as u32, text: text.into() })
    }

    fn push(&mut self, at: usize, kind: TokenKind) {
        self.out.push(Token { kind, at: at as u32 });
    }

    fn next(&mut self) -> Result<bool, Problem> {
        while let Some(c) = self.peek(0) {
            if c.is_whitespace() {
                self.at += 1;
            } else if c == '/' && self.peek(1) == Some('/') {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else {
                break;
            }
        }
        let start = self.at;
        let Some(c) = self.peek(0) else {
            self.push(start, TokenKind::End);
            return Ok(false);
        };
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|c| c.is_ascii_digit()) && !self.after_operand())
        {
            self.number(start)?;
        } else if let Some((raw, bytes, skip)) = self.string_start() {
            self.at += skip;
            self.string(start, raw, bytes)?;
        } else if c.is_ascii_alphabetic() || c == '_' {
            while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                self.at += 1;
            }
            let text = self.chars[start..self.at].iter().collect();
            self.push(start, TokenKind::Ident(text));
        } else if c == '`' {
            self.at += 1;
            while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || "_.-/ ".contains(c)) {
                self.at += 1;
            }
            if self.peek(0) != Some('`') || self.at == start + 1 {
                return self.problem(start, "Syntax error: token recognition error at: '`'");
            }
            let text = self.chars[start + 1..self.at].iter().collect();
            self.at += 1;
            self.push(start, TokenKind::Quoted(text));
        } else {
            let two: String = self.chars[start..].iter().take(2).collect();
            let sign = SIGNS.iter().find(|s| two.starts_with(**s));
            match sign {
                Some(sign) if !matches!(*sign, "=" | "&" | "|" | "@") => {
                    self.at += sign.len();
                    self.push(start, TokenKind::Sign(sign));
                }
                _ => return self.problem(start, format!("Syntax error: token recognition error at: '{c}'")),
            }
        }
        Ok(true)
    }

    /// Whether a dot here selects rather than begins a number.
    fn after_operand(&self) -> bool {
        match self.out.last().map(|t| &t.kind) {
            Some(TokenKind::Ident(_) | TokenKind::Quoted(_) | TokenKind::String(_)) => true,
            Some(TokenKind::Sign(s)) => matches!(*s, ")" | "]" | "}"),
            _ => false,
        }
    }

    fn number(&mut self, start: usize) -> Result<(), Problem> {
        if self.peek(0) == Some('0') && matches!(self.peek(1), Some('x' | 'X')) {
            self.at += 2;
            let digits = self.take(|c| c.is_ascii_hexdigit());
            return self.integer(start, &digits, 16);
        }
        let mut text = self.take(|c| c.is_ascii_digit());
        let mut double = false;
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            text.push('.');
            text += &self.take(|c| c.is_ascii_digit());
            double = true;
        }
        let exponent = usize::from(matches!(self.peek(1), Some('+' | '-')));
        if matches!(self.peek(0), Some('e' | 'E')) && self.peek(1 + exponent).is_some_and(|c| c.is_ascii_digit()) {
            text.push('e');
            self.at += 1;
            if exponent == 1 {
                text.extend(self.peek(0));
                self.at += 1;
            }
            text += &self.take(|c| c.is_ascii_digit());
            double = true;
        }
        if !double {
            return self.integer(start, &text, 10);
        }
        match text.parse() {
            Ok(value) => self.push(start, TokenKind::Double(value)),
            Err(_) => return self.problem(start, "invalid double literal"),
        }
        Ok(())
    }

    fn integer(&mut self, start: usize, digits: &str, radix: u32) -> Result<(), Problem> {
        let value = u64::from_str_radix(digits, radix);
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            return match value {
                Ok(value) => {
                    self.push(start, TokenKind::Uint(value));
                    Ok(())
                }
                Err(_) => self.problem(start, "invalid uint literal"),
            };
        }
        match value {
            Ok(value) if value <= i64::MAX as u64 => self.push(start, TokenKind::Int(value as i64)),
            Ok(value) if value == i64::MIN.unsigned_abs() => self.push(start, TokenKind::IntMin),
            _ => return self.problem(start, "invalid int literal"),
        }
        Ok(())
    }

    fn take(&mut self, good: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(&good) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    /// Raw, bytes, and the characters before the quote, when a string begins here.
    fn string_start(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes, mut skip) = (false, false, 0);
        loop {
            match self.peek(skip)? {
                '"' | '\'' => return Some((raw, bytes, skip)),
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                _ => return None,
            }
            skip += 1;
        }
    }

    fn string(&mut self, start: usize, raw: bool, bytes: bool) -> Result<(), Problem> {
        let Some(quote) = self.peek(0) else { return self.problem(start, "unterminated string literal") };
        let long = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        let width = if long { 3 } else { 1 };
        self.at += width;
        let mut out: Vec<u8> = vec![];
        loop {
            let Some(c) = self.peek(0) else {
                return self.problem(start, "Syntax error: unterminated string literal");
            };
            if c == quote && (!long || (self.peek(1) == Some(quote) && self.peek(2) == Some(quote))) {
                self.at += width;
                break;
            }
            if !long && matches!(c, '\n' | '\r') {
                return self.problem(start, "Syntax error: a string literal may not contain a line break");
            }
            if c == '\\' && !raw {
                self.escape(&mut out, bytes)?;
            } else {
                self.at += 1;
                out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if bytes {
            self.push(start, TokenKind::Bytes(out));
            return Ok(());
        }
        match String::from_utf8(out) {
            Ok(text) => self.push(start, TokenKind::String(text)),
            Err(_) => return self.problem(start, "invalid UTF-8 in a string literal"),
        }
        Ok(())
    }

    fn escape(&mut self, out: &mut Vec<u8>, bytes: bool) -> Result<(), Problem> {
        let start = self.at;
        let bad = |lexer: &Self| lexer.problem(start, "Syntax error: invalid escape sequence");
        let Some(c) = self.peek(1) else { return bad(self) };
        self.at += 2;
        let simple = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => Some(c as u8),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            return Ok(());
        }
        let (digits, radix) = match c {
            'x' | 'X' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return bad(self),
        };
        if matches!(c, 'u' | 'U') && bytes {
            return bad(self);
        }
        let text: String = self.chars.iter().skip(self.at).take(digits).collect();
        let Ok(code) = u32::from_str_radix(&text, radix) else { return bad(self) };
        if text.chars().count() != digits {
            return bad(self);
        }
        self.at += digits;
        if bytes {
            out.push(code as u8);
            return Ok(());
        }
        match char::from_u32(code) {
            Some(c) => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            None => return bad(self),
        }
        Ok(())
    }
}
