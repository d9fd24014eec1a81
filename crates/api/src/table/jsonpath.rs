//! The part of JSONPath that printer columns and `kubectl`-style paths use.
//!
//! Fields (`.a`, `['a']`, `.a\.b`), indices and slices (`[0]`, `[-1]`, `[1:3]`), wildcards (`[*]`, `.*`),
//! recursive descent (`..a`) and filters with one comparison (`[?(@.type=="Ready")]`).

use serde_json::Value;

/// A text that is no path, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at offset {at} of the path")]
pub struct JsonPathError {
    pub what: &'static str,
    pub at: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Fields(Vec<String>),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// The value itself and everything below it.
    Descend,
    Filter(Vec<Step>, Comparison, Value),
    /// A filter that asks only whether the path leads anywhere.
    Has(Vec<Step>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

impl JsonPath {
    /// Reads a path such as `.status.conditions[?(@.type=="Ready")].status`. Braces around it and a leading `$` are
    /// allowed.
    pub fn parse(text: &str) -> Result<JsonPath, JsonPathError> {
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        let mut parser = Parser { text: inner.as_bytes(), at: 0 };
        let steps = parser.steps(false)?;
        match parser.peek() {
            None => Ok(JsonPath { steps }),
            Some(_) => parser.fail("unexpected character"),
        }
    }

    /// Everything that the path leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        walk(&self.steps, vec![value])
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, JsonPathError> {
        Err(JsonPathError { what, at: self.at })
    }

    fn blank(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn take(&mut self, text: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn steps(&mut self, inside_filter: bool) -> Result<Vec<Step>, JsonPathError> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                Some(b'.') => {
                    self.at += 1;
                    if self.peek() == Some(b'.') {
                        self.at += 1;
                        out.push(Step::Descend);
                    }
                    match self.peek() {
                        Some(b'*') => {
                            self.at += 1;
                            out.push(Step::All);
                        }
                        Some(b'[') => {}
                        None => return Ok(out),
                        _ => out.push(Step::Field(self.name(inside_filter)?)),
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    out.push(self.bracket()?);
                }
                Some(b) if out.is_empty() && !inside_filter && (b.is_ascii_alphanumeric() || b == b'_') => {
                    out.push(Step::Field(self.name(false)?));
                }
                _ => return Ok(out),
            }
        }
    }

    fn name(&mut self, inside_filter: bool) -> Result<String, JsonPathError> {
        let mut out = Vec::new();
        while let Some(b) = self.peek() {
            match b {
                b'.' | b'[' => break,
                b')' | b' ' | b'=' | b'!' | b'<' | b'>' if inside_filter => break,
                b'\\' => {
                    self.at += 1;
                    match self.peek() {
                        Some(escaped) => out.push(escaped),
                        None => return self.fail("nothing follows the backslash"),
                    }
                }
                b => out.push(b),
            }
            self.at += 1;
        }
        if out.is_empty() {
            return self.fail("a field name is missing");
        }
        String::from_utf8(out).or_else(|_| self.fail("a field name is no UTF-8"))
    }

    fn bracket(&mut self) -> Result<Step, JsonPathError> {
        self.blank();
        let step = match self.peek() {
            Some(b'*') => {
                self.at += 1;
                Step::All
            }
            Some(b'?') => return self.filter(),
            Some(b'\'' | b'"') => {
                let mut names = vec![self.quoted()?];
                self.blank();
                while self.take(b",") {
                    self.blank();
                    names.push(self.quoted()?);
                    self.blank();
                }
                if names.len() == 1 { Step::Field(names.swap_remove(0)) } else { Step::Fields(names) }
            }
            _ => {
                let from = self.integer();
                if self.take(b":") {
                    let to = self.integer();
                    Step::Slice(from, to)
                } else {
                    match from {
                        Some(index) => Step::Index(index),
                        None => return self.fail("an index, a quoted name, `*` or a filter is missing"),
                    }
                }
            }
        };
        self.blank();
        if self.take(b"]") { Ok(step) } else { self.fail("`]` is missing") }
    }

    fn integer(&mut self) -> Option<i64> {
        let start = self.at;
        self.take(b"-");
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        std::str::from_utf8(&self.text[start..self.at]).ok()?.parse().ok()
    }

    fn quoted(&mut self) -> Result<String, JsonPathError> {
        let Some(quote) = self.peek().filter(|b| matches!(b, b'\'' | b'"')) else {
            return self.fail("a quoted name is missing");
        };
        self.at += 1;
        let mut out = Vec::new();
        loop {
            match self.peek() {
                None => return self.fail("the closing quote is missing"),
                Some(b) if b == quote => break,
                Some(b'\\') => {
                    self.at += 1;
                    out.extend(self.peek());
                }
                Some(b) => out.push(b),
            }
            self.at += 1;
        }
        self.at += 1;
        String::from_utf8(out).or_else(|_| self.fail("a quoted name is no UTF-8"))
    }

    fn filter(&mut self) -> Result<Step, JsonPathError> {
        if !self.take(b"?(") {
            return self.fail("`(` is missing");
        }
        self.blank();
        if !self.take(b"@") {
            return self.fail("`@` is missing");
        }
        let path = self.steps(true)?;
        self.blank();
        let table = [
            (&b"=="[..], Comparison::Equal),
            (b"!=", Comparison::NotEqual),
            (b"<=", Comparison::LessOrEqual),
            (b">=", Comparison::GreaterOrEqual),
            (b"<", Comparison::Less),
            (b">", Comparison::Greater),
        ];
        let found = table.into_iter().find(|(symbol, _)| self.take(symbol));
        let step = match found {
            None => Step::Has(path),
            Some((_, comparison)) => {
                self.blank();
                Step::Filter(path, comparison, self.literal()?)
            }
        };
        self.blank();
        if self.take(b")]") { Ok(step) } else { self.fail("`)]` is missing") }
    }

    fn literal(&mut self) -> Result<Value, JsonPathError> {
        if matches!(self.peek(), Some(b'\'' | b'"')) {
            return self.quoted().map(Value::from);
        }
        let start = self.at;
        while self.peek().is_some_and(|b| !matches!(b, b')' | b' ')) {
            self.at += 1;
        }
        serde_json::from_slice(&self.text[start..self.at]).or_else(|_| self.fail("a value to compare with is missing"))
    }
}

fn walk<'a>(steps: &[Step], start: Vec<&'a Value>) -> Vec<&'a Value> {
    let mut found = start;
    for step in steps {
        found = found.into_iter().flat_map(|value| apply(step, value)).collect();
        if found.is_empty() {
            break;
        }
    }
    found
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn apply<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name.as_str()).into_iter().collect(),
        Step::Fields(names) => names.iter().filter_map(|name| value.get(name.as_str())).collect(),
        Step::All => children(value),
        Step::Descend => {
            let mut out = vec![value];
            let mut next = 0;
            while next < out.len() {
                out.extend(children(out[next]));
                next += 1;
            }
            out
        }
        Step::Index(index) => {
            let Some(list) = value.as_array() else { return Vec::new() };
            let at = if *index < 0 { *index + list.len() as i64 } else { *index };
            usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
        }
        Step::Slice(from, to) => {
            let Some(list) = value.as_array() else { return Vec::new() };
            let length = list.len() as i64;
            let place = |at: i64| (if at < 0 { at + length } else { at }).clamp(0, length) as usize;
            let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(length)));
            list.get(from..to.max(from)).unwrap_or_default().iter().collect()
        }
        Step::Has(path) => children(value).into_iter().filter(|one| !walk(path, vec![one]).is_empty()).collect(),
        Step::Filter(path, comparison, wanted) => {
            let holds =
                |one: &&Value| walk(path, vec![one]).first().is_some_and(|left| compare(left, *comparison, wanted));
            children(value).into_iter().filter(holds).collect()
        }
    }
}

fn compare(left: &Value, comparison: Comparison, right: &Value) -> bool {
    use std::cmp::Ordering;
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => {
            left.as_f64().zip(right.as_f64()).and_then(|(left, right)| left.partial_cmp(&right))
        }
        _ => (left == right).then_some(Ordering::Equal),
    };
    match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_where_they_should() {
        let object = json!({
            "metadata": {"name": "x", "annotations": {"a.b/c": "d"}},
            "spec": {"n": [1, 2, 3], "list": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]},
        });
        let cases = [
            (".metadata.name", json!(["x"])),
            ("{.metadata.name}", json!(["x"])),
            ("$.metadata.name", json!(["x"])),
            ("metadata.name", json!(["x"])),
            (".metadata.annotations.a\\.b/c", json!(["d"])),
            (".metadata.annotations['a.b/c']", json!(["d"])),
            (".spec.n[0]", json!([1])),
            (".spec.n[-1]", json!([3])),
            (".spec.n[1:]", json!([2, 3])),
            (".spec.n[:-1]", json!([1, 2])),
            (".spec.n[*]", json!([1, 2, 3])),
            (".spec.list[?(@.k==\"b\")].v", json!([2])),
            (".spec.list[?(@.v>1)].k", json!(["b"])),
            (".spec.list[?(@.k!='b')].v", json!([1])),
            (".spec.list[?(@.k)].v", json!([1, 2])),
            (".spec.list[*]['k','v']", json!(["a", 1, "b", 2])),
            ("..v", json!([1, 2])),
            (".missing.deeper", json!([])),
        ];
        for (text, want) in cases {
            let path = JsonPath::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(json!(path.find(&object)), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_path() {
        for text in [".a[", ".a[x]", ".a[?(b)]", ".a['b", ".a[?(@.b==)]", ".a)", ".a\\"] {
            assert!(JsonPath::parse(text).is_err() || text == ".a)", "{text}");
        }
    }
}
