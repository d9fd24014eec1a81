//! Sets of completion indexes and their text form (`0,2-5,7`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::common::annotation;

/// The annotation and label of a pod's completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Completion indexes.
pub type Indexes = BTreeSet<i32>;

/// The pod's completion index when it is one of the job's.
pub fn index_of(pod: &Pod, completions: i32) -> Option<i32> {
    annotation(pod, INDEX)?.parse().ok().filter(|i| (0..completions).contains(i))
}

/// Reads the text form; what is malformed or outside `0..completions` is left out.
pub fn parse(text: &str, completions: i32) -> Indexes {
    let mut set = Indexes::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    set
}

/// Writes the text form: three and more in a row are a range.
pub fn format(set: &Indexes) -> String {
    let mut parts: Vec<String> = vec![];
    let mut rest = set.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.peek() == Some(&(last + 1)) {
            last += 1;
            rest.next();
        }
        parts.push(match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7,8,10-12"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("0-5", 3)), "0-2");
        assert_eq!(format(&parse("x,2,-", 3)), "2");
    }
}
