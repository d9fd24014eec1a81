//! Image names as people write them and as runtimes keep them.

use crate::{Error, Result};

/// The registry of a name that has none.
const DEFAULT_DOMAIN: &str = "docker.io";

/// A name in full: `domain/path[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Registry, with its port.
    pub domain: String,
    /// Repository in it.
    pub path: String,
    /// Tag; `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// `algorithm:hex`.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name as Docker does: `nginx` is `docker.io/library/nginx:latest`, and a first part counts as a registry
    /// when it has a dot, a colon or is `localhost`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::InvalidArgument(format!("{text:?} is not an image name: {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest {
            valid_digest(digest).map_err(bad)?;
        }
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            // `localhost:5000` without a path is a name with a tag, as in Docker.
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            valid_tag(tag).map_err(bad)?;
        }
        let (domain, path) = split_domain(name);
        let path =
            if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("library/{path}") } else { path.into() };
        valid_path(&path).map_err(bad)?;
        valid_domain(domain).map_err(bad)?;
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_string()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_string()),
        };
        Ok(Reference { domain: domain.to_string(), path, tag, digest: digest.map(str::to_string) })
    }

    /// `domain/path`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The full form of a name.
pub fn normalize(text: &str) -> Result<String> {
    Ok(Reference::parse(text)?.to_string())
}

fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (if first == "index.docker.io" { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn valid_digest(digest: &str) -> Result<(), &'static str> {
    let (algorithm, hex) = digest.split_once(':').ok_or("a digest looks like sha256:<64 hex digits>")?;
    let wanted = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("the digest's algorithm must be sha256, sha384 or sha512"),
    };
    if hex.len() != wanted || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err("a digest looks like sha256:<64 hex digits>");
    }
    Ok(())
}

fn valid_tag(tag: &str) -> Result<(), &'static str> {
    let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let all = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && all && tag.len() <= 128 {
        Ok(())
    } else {
        Err("a tag has letters, digits, '_', '.' and '-', at most 128")
    }
}

fn valid_path(path: &str) -> Result<(), &'static str> {
    if path.len() > 255 {
        return Err("a name has at most 255 characters");
    }
    for part in path.split('/') {
        let inner = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !inner || !edge(part.bytes().next()) || !edge(part.bytes().last()) {
            return Err("its parts have lower-case letters, digits and single '.', '_', '-' between them");
        }
    }
    Ok(())
}

fn valid_domain(domain: &str) -> Result<(), &'static str> {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let host_ok = !host.is_empty()
        && (host.starts_with('[') || host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)));
    let port_ok = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if host_ok && port_ok { Ok(()) } else { Err("the registry must be a host name with an optional port") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let with_digest = format!("nginx@{d}");
        let full = format!("docker.io/library/nginx@{d}");
        for (text, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app:1", "localhost/app:1"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("quay.example/a/b_c-d.e:v1", "quay.example/a/b_c-d.e:v1"),
            (with_digest.as_str(), full.as_str()),
        ] {
            assert_eq!(normalize(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for text in ["", "UPPER", "a//b", "a:", "a:b c", "a@sha256:12", "a/-b", "a@md5:00", "-x", "https://x/y"] {
            let error = normalize(text).unwrap_err().to_string();
            assert!(error.contains("is not an image name"), "{text}: {error}");
        }
    }
}
