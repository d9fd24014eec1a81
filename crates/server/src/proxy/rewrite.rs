//! Pages that come through `…/proxy/`: their links and redirections must lead through it again.
//!
//! A server behind the proxy believes that it is at the root, so what it calls `/x` is `PREFIX/x` to the browser. This is
//! upstream's proxy transport: the `Location` header and the URLs in attributes of HTML are given the prefix; everything
//! else passes untouched. HTML is rewritten as it streams by.

use crate::http::body::{Body, BoxError, RequestBody};
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyDataStream, BodyExt as _};

/// A tag that is longer than this is passed on as it is.
const LONGEST_TAG: usize = 64 << 10;

/// Attributes that hold a URL, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose text is no markup.
const RAW: &[&str] = &["script", "style", "textarea", "title"];

/// How URLs of one exchange are changed.
#[derive(Clone, Debug)]
pub struct Links {
    /// The path up to and including `/proxy`, without a final slash.
    pub prefix: String,
    /// The names by which the server behind is known: its own, and the one that the browser used.
    pub hosts: Vec<String>,
}

impl Links {
    /// The URL as the browser must see it; `None` when it is right already.
    pub fn rewrite(&self, url: &str) -> Option<String> {
        let text = url.trim();
        let path = match text.split_once("://") {
            Some(("http" | "https", rest)) => {
                let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, path) = rest.split_at(cut);
                if !self.hosts.iter().any(|known| known == host) {
                    return None;
                }
                if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
            }
            _ if text.starts_with('/') && !text.starts_with("//") => text.to_owned(),
            _ => return None,
        };
        let behind =
            path.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        if behind { (path != text).then_some(path) } else { Some(format!("{}{path}", self.prefix)) }
    }
}

/// Prepares a request: tells the server behind where it seems to be.
pub fn prepare(parts: &mut Parts, links: &Links, path: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("{}{path}", links.prefix)) {
        parts.headers.insert(HeaderName::from_static("x-forwarded-uri"), value);
    }
    // Pages must arrive in the clear to be rewritten; who asks for a page is a browser.
    let page = |v: &HeaderValue| v.to_str().is_ok_and(|text| text.contains("text/html"));
    if parts.headers.get_all(http::header::ACCEPT).iter().any(page) {
        parts.headers.remove(http::header::ACCEPT_ENCODING);
    }
}

/// Rewrites an answer.
pub fn answer(response: Response<Body>, links: Links, method: &Method) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    // What the server behind allows other origins, this server does not.
    let cors: Vec<HeaderName> =
        head.headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in cors {
        head.headers.remove(name);
    }
    if let Some(place) = head.headers.get(LOCATION) {
        let rewritten = place.to_str().ok().and_then(|place| links.rewrite(place));
        if let Some(value) = rewritten.and_then(|place| HeaderValue::try_from(place).ok()) {
            head.headers.insert(LOCATION, value);
        }
        return Response::from_parts(head, body);
    }
    if !is_page(&head.headers) || method == Method::HEAD {
        return Response::from_parts(head, body);
    }
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, page(body, links))
}

fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let plain = headers.get(CONTENT_ENCODING).is_none_or(|v| v == "identity");
    plain && kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/html")
}

fn page(body: Body, links: Links) -> Body {
    let body: RequestBody = RequestBody::new(body.map_err(|e| -> BoxError { e }));
    let pieces = BodyDataStream::new(body).map(Some).chain(futures::stream::iter([None]));
    let mut rewriter = Rewriter::new(links);
    Body::stream(pieces.map(move |piece| match piece {
        Some(Ok(bytes)) => Ok(Bytes::from(rewriter.push(&bytes))),
        Some(Err(error)) => Err(error),
        None => Ok(Bytes::from(rewriter.finish())),
    }))
}

/// Rewrites HTML that comes in pieces.
struct Rewriter {
    links: Links,
    /// What is not passed on yet: at most the beginning of a tag.
    held: Vec<u8>,
    /// Inside an element whose text is no markup: its name.
    raw: Option<&'static str>,
}

impl Rewriter {
    fn new(links: Links) -> Self {
        Self { links, held: vec![], raw: None }
    }

    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len() + 128);
        let mut rest = held.as_slice();
        while let Some(start) = memchr::memchr(b'<', rest) {
            out.extend_from_slice(&rest[..start]);
            rest = &rest[start..];
            match self.markup(rest) {
                Some(length) => {
                    let (tag, after) = rest.split_at(length);
                    self.tag(tag, &mut out);
                    rest = after;
                }
                None if rest.len() > LONGEST_TAG => {
                    out.push(b'<');
                    rest = &rest[1..];
                }
                None => {
                    self.held = rest.to_vec();
                    return out;
                }
            }
        }
        out.extend_from_slice(rest);
        out
    }

    fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// The length of the tag, comment or lone `<` at the start; `None` when its end has not come yet.
    fn markup(&self, text: &[u8]) -> Option<usize> {
        if let Some(name) = self.raw {
            // Only the element's own end is markup here.
            let wanted = name.len() + 2;
            if text.len() < wanted {
                return None;
            }
            let ends = text[1] == b'/' && text[2..wanted].eq_ignore_ascii_case(name.as_bytes());
            return if ends { tag_end(text) } else { Some(1) };
        }
        if text.starts_with(b"<!--") {
            return memchr::memmem::find(text, b"-->").map(|at| at + 3);
        }
        match text.get(1..4) {
            None if text.len() < 2 => None,
            None if b"<!--".starts_with(text) => None,
            _ if text[1].is_ascii_alphabetic() || text[1] == b'/' => tag_end(text),
            _ => Some(1),
        }
    }

    fn tag(&mut self, tag: &[u8], out: &mut Vec<u8>) {
        if tag.starts_with(b"</") {
            self.raw = None;
        }
        let name_end = tag[1..].iter().position(|c| !c.is_ascii_alphanumeric()).map_or(tag.len(), |at| at + 1);
        let name = String::from_utf8_lossy(&tag[1..name_end]).to_ascii_lowercase();
        if tag.get(1).is_none_or(|c| !c.is_ascii_alphabetic()) {
            return out.extend_from_slice(tag);
        }
        self.raw = RAW.iter().find(|raw| **raw == name).copied();
        match LINKS.iter().find(|(element, _)| *element == name) {
            Some((_, attributes)) => self.attributes(tag, name_end, attributes, out),
            None => out.extend_from_slice(tag),
        }
    }

    /// Copies a tag with the named attributes' values rewritten.
    fn attributes(&self, tag: &[u8], from: usize, named: &[&str], out: &mut Vec<u8>) {
        let mut copied = 0;
        let mut at = from;
        while let Some(attribute) = next_attribute(tag, at) {
            at = attribute.end;
            let name = String::from_utf8_lossy(&tag[attribute.name.clone()]).to_ascii_lowercase();
            if !named.contains(&name.as_str()) {
                continue;
            }
            let value = std::str::from_utf8(&tag[attribute.value.clone()]).ok();
            if let Some(new) = value.and_then(|value| self.links.rewrite(value)) {
                out.extend_from_slice(&tag[copied..attribute.value.start]);
                out.extend_from_slice(new.as_bytes());
                copied = attribute.value.end;
            }
        }
        out.extend_from_slice(&tag[copied..]);
    }
}

/// The length of the tag at the start of `text`, quotes respected.
fn tag_end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut after_equals = false;
    for (at, c) in text.iter().enumerate() {
        match (quote, *c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') if after_equals => quote = Some(*c),
            (None, b'>') => return Some(at + 1),
            _ => {}
        }
        after_equals = *c == b'=' || (after_equals && c.is_ascii_whitespace());
    }
    None
}

struct Attribute {
    name: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
    end: usize,
}

/// The next attribute of a tag that has a value.
fn next_attribute(tag: &[u8], mut at: usize) -> Option<Attribute> {
    let skip = |mut at: usize, over: fn(u8) -> bool| {
        while tag.get(at).is_some_and(|c| over(*c)) {
            at += 1;
        }
        at
    };
    let space = |c: u8| c.is_ascii_whitespace();
    loop {
        let start = skip(at, |c| c.is_ascii_whitespace() || c == b'/');
        // An `=` that begins a name is part of it (HTML, "before attribute name state").
        let first = start + usize::from(tag.get(start) == Some(&b'='));
        let end = skip(first, |c| !c.is_ascii_whitespace() && !matches!(c, b'=' | b'>' | b'/'));
        if tag.get(start).is_none_or(|c| *c == b'>') {
            return None;
        }
        let equals = skip(end, space);
        if tag.get(equals) != Some(&b'=') {
            at = equals.max(start + 1);
            continue;
        }
        let open = skip(equals + 1, space);
        let (value, after) = match tag.get(open) {
            Some(quote @ (b'"' | b'\'')) => {
                let close = memchr::memchr(*quote, &tag[open + 1..]).map(|n| open + 1 + n)?;
                (open + 1..close, close + 1)
            }
            _ => {
                let close = skip(open, |c| !c.is_ascii_whitespace() && c != b'>');
                (open..close, close)
            }
        };
        return Some(Attribute { name: start..end.max(start), value, end: after });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links {
            prefix: "/api/v1/namespaces/n/pods/p/proxy".into(),
            hosts: vec!["10.0.0.1:80".into(), "api:443".into()],
        }
    }

    fn whole(html: &str) -> String {
        let mut rewriter = Rewriter::new(links());
        let mut out = rewriter.push(html.as_bytes());
        out.extend(rewriter.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn urls() {
        let p = "/api/v1/namespaces/n/pods/p/proxy";
        for (url, expected) in [
            ("/x", Some(format!("{p}/x"))),
            ("/", Some(format!("{p}/"))),
            ("http://10.0.0.1:80/x?y#z", Some(format!("{p}/x?y#z"))),
            ("https://api:443", Some(format!("{p}/"))),
            ("http://example.com/x", None),
            ("//example.com/x", None),
            ("x/y", None),
            ("#top", None),
            ("mailto:a@b", None),
            (&format!("{p}/x"), None),
            (&format!("{p}y/x"), Some(format!("{p}{p}y/x"))),
        ] {
            assert_eq!(links().rewrite(url), expected, "{url}");
        }
    }

    #[test]
    fn html() {
        let p = "/api/v1/namespaces/n/pods/p/proxy";
        for (html, expected) in [
            ("<a href=\"/r\">test</a>".to_owned(), format!("<a href=\"{p}/r\">test</a>")),
            ("<A CLASS=x HREF = '/r' >".into(), format!("<A CLASS=x HREF = '{p}/r' >")),
            (
                "<img src=/i.png usemap=\"#m\"><p title='/x'>".into(),
                format!("<img src={p}/i.png usemap=\"#m\"><p title='/x'>"),
            ),
            (
                "<script>if (a<b) '<a href=\"/x\">'</script><a href=/y>".into(),
                format!("<script>if (a<b) '<a href=\"/x\">'</script><a href={p}/y>"),
            ),
            ("<!-- <a href=\"/x\"> --> 1 < 2".into(), "<!-- <a href=\"/x\"> --> 1 < 2".into()),
            ("<a data-x='>' href='/x'>".into(), format!("<a data-x='>' href='{p}/x'>")),
            ("<a = href='/x'/><br/>".into(), format!("<a = href='{p}/x'/><br/>")),
            ("<a href".into(), "<a href".into()),
        ] {
            assert_eq!(whole(&html), expected);
        }
    }

    #[test]
    fn pieces_give_the_same_as_the_whole() {
        let html =
            "<html><head><title><a href='/no'></title><link rel=x href=\"/css\"></head><!-- c --><a href='/x'>y</a>";
        let expected = whole(html);
        for cut in 1..html.len() {
            let mut rewriter = Rewriter::new(links());
            let mut out = rewriter.push(&html.as_bytes()[..cut]);
            out.extend(rewriter.push(&html.as_bytes()[cut..]));
            out.extend(rewriter.finish());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {cut}");
        }
    }
}
