//! The part of the Containerfile (Dockerfile) language that needs nothing to be run: an image from files.
//!
//! `FROM scratch`, `COPY`/`ADD` of files, and the settings of the image. `RUN` and other bases are refused with a word on
//! what to use instead.

use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// What a Containerfile asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// Source in the build context, destination in the image (absolute).
    pub copies: Vec<(String, String)>,
    pub env: Vec<(String, String)>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub user: String,
    pub workdir: String,
    pub ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
}

/// Parses a Containerfile; an error names the line and what would be right.
pub fn parse(text: &str) -> Result<Recipe> {
    let mut recipe = Recipe { workdir: "/".into(), ..Default::default() };
    let mut based = false;
    for (number, line) in logical_lines(text) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let rest = rest.trim();
        let word = word.to_ascii_uppercase();
        if word == "FROM" {
            if rest.split_whitespace().next() != Some("scratch") {
                bail!(
                    "line {number}: FROM {rest}: only `FROM scratch` can be built here; import a base with `caravel image import`"
                );
            }
            based = true;
            continue;
        }
        if !based {
            bail!("line {number}: {word} before FROM; begin with `FROM scratch`");
        }
        recipe.instruction(&word, rest).map_err(|e| e.context(format!("line {number}: {word}")))?;
    }
    if !based {
        bail!("it has no FROM; begin with `FROM scratch`");
    }
    Ok(recipe)
}

impl Recipe {
    fn instruction(&mut self, word: &str, rest: &str) -> Result<()> {
        match word {
            "COPY" | "ADD" => self.copy(rest)?,
            "ENV" => self.env.extend(pairs(rest)?),
            "LABEL" => self.labels.extend(pairs(rest)?),
            "ENTRYPOINT" => self.entrypoint = command(rest)?,
            "CMD" => self.cmd = command(rest)?,
            "USER" => self.user = rest.into(),
            "WORKDIR" => self.workdir = absolute(&self.workdir, rest),
            "EXPOSE" => self.ports.extend(rest.split_whitespace().map(port)),
            "STOPSIGNAL" => self.stop_signal = Some(rest.into()),
            "ARG" | "VOLUME" | "MAINTAINER" => {}
            "RUN" => bail!("nothing is run during a build here; run it before, and COPY what it made"),
            _ => bail!(
                "unknown instruction; known are FROM, COPY, ADD, ENV, LABEL, ENTRYPOINT, CMD, USER, WORKDIR, EXPOSE, STOPSIGNAL"
            ),
        }
        Ok(())
    }

    fn copy(&mut self, rest: &str) -> Result<()> {
        let words: Vec<String> = if rest.starts_with('[') {
            serde_json::from_str(rest)?
        } else {
            rest.split_whitespace().filter(|w| !w.starts_with("--")).map(str::to_owned).collect()
        };
        let Some((to, from)) = words.split_last().filter(|(_, from)| !from.is_empty()) else {
            bail!("it needs a source and a destination: COPY site /usr/share/site");
        };
        if let Some(url) = from.iter().find(|f| f.contains("://")) {
            bail!("{url}: nothing is fetched during a build; put the file into the build directory");
        }
        let to = absolute(&self.workdir, to);
        if from.len() > 1 && !to.ends_with('/') {
            bail!("with several sources the destination must end with `/`");
        }
        self.copies.extend(from.iter().map(|f| (f.clone(), to.clone())));
        Ok(())
    }
}

fn absolute(workdir: &str, path: &str) -> String {
    if path.starts_with('/') { path.into() } else { format!("{}/{path}", workdir.trim_end_matches('/')) }
}

fn port(word: &str) -> String {
    if word.contains('/') { word.into() } else { format!("{word}/tcp") }
}

/// The exec form as it is; the shell form as `/bin/sh -c`.
fn command(rest: &str) -> Result<Vec<String>> {
    if rest.starts_with('[') {
        return Ok(serde_json::from_str(rest)?);
    }
    Ok(vec!["/bin/sh".into(), "-c".into(), rest.into()])
}

/// `KEY=value KEY2="two words"`, or the old form `KEY value`.
fn pairs(rest: &str) -> Result<Vec<(String, String)>> {
    let words = split_quoted(rest)?;
    if words.first().is_some_and(|w| !w.contains('=')) {
        let (key, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        return Ok(vec![(key.into(), value.trim().into())]);
    }
    let pair = |w: String| match w.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => bail!("{w}: write it as KEY=value"),
    };
    words.into_iter().map(pair).collect()
}

fn split_quoted(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote, mut any) = (vec![], String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => word.extend(chars.next()),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => (quote, any) = (Some(c), true),
            (c, None) if c.is_whitespace() => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            (c, _) => word.push(c),
        }
    }
    if quote.is_some() {
        bail!("a quote is not closed");
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// Lines without comments, continuation lines joined, each with the number of its first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = vec![];
    let mut open = false;
    for (i, raw) in text.lines().enumerate() {
        let line = raw.trim();
        if line.starts_with('#') || (line.is_empty() && !open) {
            continue;
        }
        let (line, continues) = line.strip_suffix('\\').map_or((line, false), |l| (l, true));
        match lines.last_mut().filter(|_| open) {
            Some((_, last)) => {
                last.push(' ');
                last.push_str(line);
            }
            None => lines.push((i + 1, line.to_owned())),
        }
        open = continues;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_an_image_of_files_needs() {
        let text = "# a comment\nFROM scratch\nWORKDIR /srv\nCOPY a b site/\nADD [\"c d\", \"/x\"]\nENV A=1 B=\"two words\"\nENV OLD form\nEXPOSE 80 53/udp\nCMD [\"/run\", \\\n  \"-v\"]\nUSER 33\nSTOPSIGNAL SIGQUIT";
        let r = parse(text).expect("it parses");
        let owned =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
        assert_eq!(r.copies, owned(&[("a", "/srv/site/"), ("b", "/srv/site/"), ("c d", "/x")]));
        assert_eq!(r.env, owned(&[("A", "1"), ("B", "two words"), ("OLD", "form")]));
        assert_eq!(r.ports, ["80/tcp", "53/udp"]);
        assert_eq!(r.cmd, ["/run", "-v"]);
        assert_eq!((r.user.as_str(), r.stop_signal.as_deref()), ("33", Some("SIGQUIT")));
    }

    #[test]
    fn refuses_with_the_line_and_the_mend() {
        for (text, words) in [
            ("FROM debian", vec!["line 1", "FROM scratch"]),
            ("FROM scratch\n\nRUN make", vec!["line 3", "RUN", "COPY what it made"]),
            ("COPY a /b", vec!["line 1", "begin with `FROM scratch`"]),
            ("FROM scratch\nCOPY a", vec!["source and a destination"]),
            ("FROM scratch\nCOPY a b /c", vec!["end with `/`"]),
            ("FROM scratch\nENV A=\"x", vec!["quote is not closed"]),
            ("FROM scratch\nFLY away", vec!["unknown instruction"]),
            ("", vec!["no FROM"]),
        ] {
            let error = format!("{:#}", parse(text).expect_err(text));
            assert!(words.iter().all(|w| error.contains(w)), "{text:?}: {error}");
        }
    }
}
