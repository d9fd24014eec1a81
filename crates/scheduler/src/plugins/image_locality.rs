//! ImageLocality: nodes that have the images already, weighted so that one node with an image does not draw all pods.

use super::MAX_SCORE;
use crate::model::{NodeInfo, PodInfo};
use crate::state::State;

const MB: i64 = 1 << 20;
const MIN: i64 = 23 * MB;
const MAX_EACH: i64 = 1000 * MB;

/// The score of a node.
pub fn score(state: &State, pod: &PodInfo, node: &NodeInfo) -> i64 {
    if node.images.is_empty() {
        return 0;
    }
    let total = state.len().max(1) as f64;
    let sum: i64 = pod
        .images
        .iter()
        .filter_map(|image| {
            let size = node.images.get(image)?;
            Some((*size as f64 * f64::from(state.image_nodes(*image)) / total) as i64)
        })
        .sum();
    let max = MAX_EACH * pod.images.len().max(1) as i64;
    MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, state};

    #[test]
    fn big_images_count_as_far_as_they_are_spread() {
        let state = state([
            node("a").image("big:1", 2000 * MB),
            node("b").image("big:1", 2000 * MB).image("small:1", 10 * MB),
            node("c"),
            node("d"),
        ]);
        let of = |name: &str, image: &str| {
            let id = state.find(name).unwrap_or_default();
            score(&state, &pod("p").image(image).info(), state.node(id))
        };
        assert_eq!(of("a", "big:1"), 100, "2000 MB on half of the nodes");
        assert_eq!(of("c", "big:1"), 0);
        assert_eq!(of("b", "small:1"), 0, "too small to matter");
    }

    #[test]
    fn images_of_all_that_a_pod_is_given() {
        let pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i", "image": "init"}], "containers": [{"name": "c", "image": "main:2"}],
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "v", "image": {"reference": "r/data:1"}}]}}));
        let pod = PodInfo::new(&pod.unwrap_or_default());
        assert_eq!(*pod.images, ["init:latest", "main:2", "r/data:1"].map(crate::sym::Sym::of));
    }
}
