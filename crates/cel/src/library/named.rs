//! Named formats: `format.dns1123Label().validate(x)` yields what is wrong, or nothing.

use super::{Called, library, time};
use crate::eval::Evaluator;
use crate::ops::text_cost;
use crate::value::{Library, Val};
use base64::Engine as _;
use caravel_api::names;
use std::rc::Rc;

const NAMES: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

fn complaints(name: &str, text: &str) -> Vec<String> {
    let masked = || names::mask_trailing_dash(text);
    let one = |good: bool, why: &str| if good { vec![] } else { vec![why.to_owned()] };
    match name {
        "dns1123Label" => names::dns1123_label(text).into_iter().collect(),
        "dns1123Subdomain" => names::dns1123_subdomain(text).into_iter().collect(),
        "dns1035Label" => names::dns1035_label(text).into_iter().collect(),
        "qualifiedName" => names::qualified_name(text).into_iter().collect(),
        "dns1123LabelPrefix" => names::dns1123_label(&masked()).into_iter().collect(),
        "dns1123SubdomainPrefix" => names::dns1123_subdomain(&masked()).into_iter().collect(),
        "dns1035LabelPrefix" => names::dns1035_label(&masked()).into_iter().collect(),
        "labelValue" => names::label_value(text).into_iter().collect(),
        "uri" => one(super::url::Url::parse(text).is_some(), "invalid URI"),
        "uuid" => one(is_uuid(text), "does not match the UUID format"),
        "byte" => one(base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "invalid base64"),
        "date" => one(text.len() == 10 && time::parse_instant(text).is_some(), "invalid date"),
        _ => one(text.len() > 10 && time::parse_instant(text).is_some(), "invalid datetime"),
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text
            .char_indices()
            .all(|(i, c)| if matches!(i, 8 | 13 | 18 | 23) { c == '-' } else { c.is_ascii_hexdigit() })
}

pub(super) fn call<'a>(evaluator: &Evaluator<'a, '_>, name: &str, args: &[Val<'a>]) -> Called<'a> {
    let find = |wanted: &str| NAMES.iter().find(|n| **n == wanted).map(|n| Val::library(Library::Format(n)));
    if let ("format.named", [Val::String(wanted)]) = (name, args) {
        return Some(Ok(Val::Optional(find(wanted.as_str()).map(Rc::new))));
    }
    if let (Some(wanted), []) = (name.strip_prefix("format."), args) {
        return find(wanted).map(Ok);
    }
    let (Library::Format(format), "validate", Some(Val::String(text))) = (library(args)?, name, args.get(1)) else {
        return None;
    };
    Some(evaluator.charge(text_cost(text.as_str().len()).saturating_mul(4)).map(|()| {
        let all = complaints(format, text.as_str());
        let list = || Rc::new(Val::list(all.iter().map(|c| Val::text(c.as_str())).collect()));
        Val::Optional((!all.is_empty()).then(list))
    }))
}
