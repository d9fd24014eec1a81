//! What a CSI volume and its attachments are called.

use std::fmt::Write;

use k8s_openapi::api::core::v1::PersistentVolume;
use sha2::{Digest, Sha256};

const PREFIX: &str = "kubernetes.io/csi/";

/// A CSI volume: its driver, and the driver's name for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId {
    /// The driver.
    pub driver: String,
    /// The driver's name for the volume.
    pub handle: String,
}

impl VolumeId {
    /// The volume behind a PersistentVolume, if a CSI driver has it.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some(Self { driver: csi.driver.clone(), handle: csi.volume_handle.clone() })
    }

    /// The name in a Node's `volumesAttached` and `volumesInUse`.
    pub fn unique_name(&self) -> String {
        format!("{PREFIX}{}^{}", self.driver, self.handle)
    }

    /// Reads what [`VolumeId::unique_name`] makes.
    pub fn parse(unique: &str) -> Option<Self> {
        let (driver, handle) = unique.strip_prefix(PREFIX)?.split_once('^')?;
        Some(Self { driver: driver.to_owned(), handle: handle.to_owned() })
    }

    /// The name of the VolumeAttachment to a node: drivers and kubelets compute it, too.
    pub fn attachment(&self, node: &str) -> String {
        let sum = Sha256::new().chain_update(&self.handle).chain_update(&self.driver).chain_update(node).finalize();
        sum.iter().fold("csi-".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let v = VolumeId { driver: "d.example".into(), handle: "a/b^c".into() };
        assert_eq!(v.unique_name(), "kubernetes.io/csi/d.example^a/b^c");
        assert_eq!(VolumeId::parse(&v.unique_name()), Some(v));
        assert_eq!(VolumeId::parse("kubernetes.io/nfs/x"), None);
        // printf vol1driver1node1 | sha256sum
        let v = VolumeId { driver: "driver1".into(), handle: "vol1".into() };
        assert_eq!(v.attachment("node1"), "csi-277fb9628e864dc71a29d97e84a29d03f19eb560a7cfe7ad08be7306da360ba6");
    }
}
