//! The grammar of label selectors in query strings.

use super::{LabelRequirement, Operator, SelectorError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Close,
    Open,
    Comma,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Word,
    Bad,
}

/// Longest special symbol first.
const SYMBOLS: [(&str, Token); 9] = [
    ("==", Token::Equals),
    ("!=", Token::NotEquals),
    ("=", Token::Equals),
    ("!", Token::Not),
    (")", Token::Close),
    ("(", Token::Open),
    (",", Token::Comma),
    (">", Token::Greater),
    ("<", Token::Less),
];

fn special(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// Where a token stands: `in` and `notin` are words wherever a value or key may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Operator,
    Value,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn lex(&self) -> (Token, &'a str, usize) {
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        while at < bytes.len() && blank(bytes[at]) {
            at += 1;
        }
        let rest = &self.text[at..];
        if rest.is_empty() {
            return (Token::End, "", at);
        }
        for (symbol, token) in SYMBOLS {
            if rest.starts_with(symbol) {
                return (token, &rest[..symbol.len()], at + symbol.len());
            }
        }
        let length = rest.bytes().take_while(|b| !special(*b) && !blank(*b)).count();
        let word = &rest[..length];
        let token = match word {
            "in" => Token::In,
            "notin" => Token::NotIn,
            "" => Token::Bad,
            _ => Token::Word,
        };
        (token, word, at + length)
    }

    fn peek(&self, place: Place) -> (Token, &'a str) {
        let (token, text, _) = self.lex();
        match token {
            Token::In | Token::NotIn if place == Place::Value => (Token::Word, text),
            other => (other, text),
        }
    }

    fn next(&mut self, place: Place) -> (Token, &'a str) {
        let found = self.peek(place);
        self.at = self.lex().2;
        found
    }

    fn requirement(&mut self) -> Result<LabelRequirement, SelectorError> {
        let (mut token, mut key) = self.next(Place::Value);
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next(Place::Value);
        }
        if token != Token::Word {
            return Err(SelectorError(format!("found '{key}', expected: identifier")));
        }
        if matches!(self.peek(Place::Value).0, Token::End | Token::Comma) {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return LabelRequirement::new(key, operator, Vec::new());
        }
        if negated {
            // `!key` takes no operator; what follows is reported as upstream does.
            return LabelRequirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        let (token, text) = self.next(Place::Operator);
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => {
                return Err(SelectorError(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.list()?,
            _ => self.exact()?,
        };
        LabelRequirement::new(key, operator, values)
    }

    fn exact(&mut self) -> Result<Vec<String>, SelectorError> {
        if matches!(self.peek(Place::Value).0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next(Place::Value) {
            (Token::Word, value) => Ok(vec![value.to_owned()]),
            (_, text) => Err(SelectorError(format!("found '{text}', expected: identifier"))),
        }
    }

    fn list(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next(Place::Value) {
            (Token::Open, _) => {}
            (_, text) => return Err(SelectorError(format!("found '{text}' expected: '('"))),
        }
        let mut values = Vec::new();
        // An empty place between commas or brackets stands for the empty value.
        let mut pending = true;
        loop {
            match self.next(Place::Value) {
                (Token::Word, value) if pending => {
                    values.push(value.to_owned());
                    pending = false;
                }
                (Token::Comma, _) => {
                    if pending {
                        values.push(String::new());
                    }
                    pending = true;
                }
                (Token::Close, _) => {
                    if pending {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                (_, text) => return Err(SelectorError(format!("found '{text}', expected: ',', or ')'"))),
            }
        }
    }
}

/// Reads the requirements of a query-string selector.
pub(super) fn parse(text: &str) -> Result<Vec<LabelRequirement>, SelectorError> {
    let mut parser = Parser { text, at: 0 };
    let mut out = Vec::new();
    loop {
        match parser.peek(Place::Value) {
            (Token::Word | Token::Not, _) => {}
            (Token::End, _) => return Ok(out),
            (_, found) => {
                return Err(SelectorError(format!("found '{found}', expected: !, identifier, or 'end of string'")));
            }
        }
        let one = parser.requirement().map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?;
        out.push(one);
        match parser.next(Place::Value) {
            (Token::End, _) => return Ok(out),
            (Token::Comma, _) => {
                let (token, found) = parser.peek(Place::Value);
                if !matches!(token, Token::Word | Token::Not) {
                    return Err(SelectorError(format!("found '{found}', expected: identifier after ','")));
                }
            }
            (_, found) => {
                return Err(SelectorError(format!("found '{found}', expected: ',' or 'end of string'")));
            }
        }
    }
}
