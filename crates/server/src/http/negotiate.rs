//! Content negotiation: what the client wants back (`Accept`), and what it sends (`Content-Type`).

use caravel_api::protobuf;
use caravel_api::status::ApiError;
use http::HeaderMap;

/// A serialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`: built-in kinds only.
    Protobuf,
}

impl MediaType {
    /// As a header value.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => protobuf::CONTENT_TYPE,
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "application/json" | "application/*" | "*/*" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            protobuf::CONTENT_TYPE => Some(Self::Protobuf),
            _ => None,
        }
    }
}

/// Media types that are served and taken.
pub const SUPPORTED: [&str; 3] = ["application/json", "application/yaml", protobuf::CONTENT_TYPE];

/// In which shape objects are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// As they are.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata, or its list.
    Metadata,
}

/// What the client wants back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Serialization.
    pub media: MediaType,
    /// Shape.
    pub form: Form,
}

impl Accept {
    /// Plain JSON.
    pub const JSON: Self = Self { media: MediaType::Json, form: Form::Object };

    /// The best of the client's alternatives that can be served; `list` tells `PartialObjectMetadataList` from
    /// `PartialObjectMetadata`. No `Accept` header means JSON. Protobuf is not among what can be served, but for metadata.
    pub fn of(headers: &HeaderMap, list: bool) -> Result<Self, ApiError> {
        Self::choose(headers, list, false)
    }

    /// As [`Accept::of`], for objects of a kind that may have a protobuf form.
    pub fn choose(headers: &HeaderMap, list: bool, protobuf: bool) -> Result<Self, ApiError> {
        Self::choose_among(headers, list, protobuf, |_| true)
    }

    /// As [`Accept::choose`], for what has no table and no metadata of its own: answers to questions.
    pub fn choose_plain(headers: &HeaderMap, protobuf: bool) -> Result<Self, ApiError> {
        Self::choose_among(headers, false, protobuf, |form| form == Form::Object)
    }

    /// In what a `Status` or a discovery document goes out: what the client asks for, and JSON when that is nothing served here.
    pub fn plain_media(headers: &HeaderMap) -> MediaType {
        Self::choose_plain(headers, true).map_or(MediaType::Json, |accept| accept.media)
    }

    fn choose_among(
        headers: &HeaderMap,
        list: bool,
        protobuf: bool,
        fits: impl Fn(Form) -> bool,
    ) -> Result<Self, ApiError> {
        let mut any = false;
        let mut best: Option<(f32, Self)> = None;
        for value in headers.get_all(http::header::ACCEPT) {
            let Ok(value) = value.to_str() else { continue };
            for clause in value.split(',') {
                let clause = clause.trim();
                if clause.is_empty() {
                    continue;
                }
                any = true;
                if let Some((quality, accept)) = parse_clause(clause, list, protobuf)
                    && fits(accept.form)
                    && best.as_ref().is_none_or(|(q, _)| quality > *q)
                {
                    best = Some((quality, accept));
                }
            }
        }
        match best {
            Some((_, accept)) => Ok(accept),
            None if !any => Ok(Self::JSON),
            None => Err(ApiError::not_acceptable(&SUPPORTED)),
        }
    }
}

fn parse_clause(clause: &str, list: bool, protobuf: bool) -> Option<(f32, Accept)> {
    let mut parts = clause.split(';').map(str::trim);
    let media = MediaType::named(&parts.next()?.to_ascii_lowercase())?;
    let (mut quality, mut form, mut group, mut version) = (1.0, Form::Object, "", "");
    for parameter in parts {
        let (key, value) = parameter.split_once('=')?;
        match key.trim() {
            "q" => quality = value.trim().parse().ok()?,
            "as" => {
                form = match value.trim() {
                    "Table" => Form::Table,
                    "PartialObjectMetadata" if !list => Form::Metadata,
                    "PartialObjectMetadataList" if list => Form::Metadata,
                    // A watch asks for PartialObjectMetadata though its path is a collection's.
                    "PartialObjectMetadata" => Form::Metadata,
                    _ => return None,
                }
            }
            "g" => group = value.trim(),
            "v" => version = value.trim(),
            _ => {}
        }
    }
    if form != Form::Object && (group != "meta.k8s.io" || !matches!(version, "v1" | "v1beta1")) {
        return None;
    }
    // Bare metadata has a protobuf form whatever the object is, and a table has none.
    let fits = match form {
        Form::Object => protobuf,
        Form::Metadata => true,
        Form::Table => false,
    };
    if media == MediaType::Protobuf && !fits {
        return None;
    }
    (quality > 0.0).then_some((quality, Accept { media, form }))
}

/// The media type of a request's body, parameters left out; JSON when nothing is said.
pub fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map(|v| v.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .filter(|v| !v.is_empty())
        .unwrap_or_else(|| "application/json".to_owned())
}

/// How the body of a request is written; types that are not taken are refused.
pub fn body_media(headers: &HeaderMap) -> Result<MediaType, ApiError> {
    match content_type(headers).as_str() {
        "application/json" => Ok(MediaType::Json),
        "application/yaml" => Ok(MediaType::Yaml),
        protobuf::CONTENT_TYPE => Ok(MediaType::Protobuf),
        _ => Err(ApiError::unsupported_media_type(&SUPPORTED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str, list: bool) -> Result<Accept, u16> {
        let mut headers = HeaderMap::new();
        if !text.is_empty() {
            headers.insert("accept", text.parse().unwrap());
        }
        Accept::of(&headers, list).map_err(|e| e.code)
    }

    #[test]
    fn the_best_alternative_is_taken() {
        let json = |form| Ok(Accept { media: MediaType::Json, form });
        for (text, list, wanted) in [
            ("", false, json(Form::Object)),
            ("*/*", false, json(Form::Object)),
            ("application/json", true, json(Form::Object)),
            ("application/vnd.kubernetes.protobuf, application/json", false, json(Form::Object)),
            ("application/vnd.kubernetes.protobuf", false, Err(406)),
            ("text/html", false, Err(406)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", true, json(Form::Table)),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", true, json(Form::Object)),
            ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", true, json(Form::Metadata)),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
                true,
                Ok(Accept { media: MediaType::Protobuf, form: Form::Metadata }),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io",
                true,
                json(Form::Table),
            ),
            ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", true, Err(406)),
            ("application/cbor", false, Err(406)),
            ("application/cbor,application/json;q=0.5", false, json(Form::Object)),
            ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", false, json(Form::Metadata)),
            (
                "application/json;q=0.2,application/yaml;q=0.8",
                false,
                Ok(Accept { media: MediaType::Yaml, form: Form::Object }),
            ),
            ("application/json;as=Nonsense;v=v1;g=meta.k8s.io", false, Err(406)),
        ] {
            assert_eq!(accept(text, list), wanted, "{text}");
        }
    }
}
