//! Decoding an object without its managed fields.
//!
//! Who set which field is a third of an object's text and more of the work of decoding it, and no component asks for it. A
//! write without managed fields leaves them as they are, so what an informer holds may be sent back.

use serde::de::value::CowStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use std::borrow::Cow;
use std::fmt;

/// `K`, decoded without `metadata.managedFields`.
#[derive(Clone, Debug)]
pub(crate) struct Lean<K>(pub K);

impl<'de, K: Deserialize<'de>> Deserialize<'de> for Lean<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        K::deserialize(Sieve { inner: deserializer, level: Level::Object }).map(Lean)
    }
}

/// The items of a list and the revision of all of it. Its kind is known to whoever asked.
#[derive(Deserialize)]
#[serde(bound(deserialize = "K: Deserialize<'de>"))]
pub(crate) struct LeanList<K> {
    #[serde(default)]
    pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta,
    /// Go leaves the items of an empty list out, or writes null.
    #[serde(default)]
    pub items: Option<Vec<Lean<K>>>,
}

/// Where in the object a map stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Object,
    Metadata,
}

/// A deserializer that shows everything but the managed fields.
struct Sieve<T> {
    inner: T,
    level: Level,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Sieve<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Sieve { inner: visitor, level: self.level })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Sieve { inner: visitor, level: self.level })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Sieve<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Members { map, level: self.level, at_metadata: false })
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Sieve { inner: deserializer, level: self.level })
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }
}

/// The members of the object, or of its metadata.
struct Members<A> {
    map: A,
    level: Level,
    /// The key just told is `metadata` of the object.
    at_metadata: bool,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(Key(key)) = self.map.next_key()? {
            if self.level == Level::Metadata && key == "managedFields" {
                self.map.next_value::<IgnoredAny>()?;
                continue;
            }
            self.at_metadata = self.level == Level::Object && key == "metadata";
            return seed.deserialize(CowStrDeserializer::new(key)).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        if self.at_metadata {
            return self.map.next_value_seed(Sieve { inner: seed, level: Level::Metadata });
        }
        self.map.next_value_seed(seed)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Sieve<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Sieve { inner: deserializer, level: self.level })
    }
}

/// A key, borrowed where that is possible.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::WatchEvent;
    use serde_json::json;

    fn pod() -> serde_json::Value {
        json!({"kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "p", "labels": {"managedFields": "a label"}, "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}], "uid": "u"},
            "spec": {"containers": [{"name": "c", "env": [{"name": "metadata", "value": "managedFields"}]}]},
            "status": {"phase": "Running"}})
    }

    #[test]
    fn only_the_managed_fields_are_missing() {
        let mut wanted: Pod = serde_json::from_value(pod()).unwrap();
        assert!(wanted.metadata.managed_fields.take().is_some());
        let text = pod().to_string();
        assert_eq!(serde_json::from_str::<Lean<Pod>>(&text).unwrap().0, wanted);
        // A reader cannot lend its text.
        assert_eq!(serde_json::from_reader::<_, Lean<Pod>>(text.as_bytes()).unwrap().0, wanted);
        let event = format!("{{\"type\":\"MODIFIED\",\"object\":{text}}}");
        match serde_json::from_str::<WatchEvent<Lean<Pod>>>(&event).unwrap() {
            WatchEvent::Modified(Lean(seen)) => assert_eq!(seen, wanted),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_with_and_without_items() {
        let list =
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [pod()]});
        let list: LeanList<Pod> = serde_json::from_value(list).unwrap();
        assert_eq!(list.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(list.items.unwrap()[0].0.metadata.name.as_deref(), Some("p"));
        for empty in [json!({"metadata": {}, "items": null}), json!({"metadata": {}})] {
            assert!(serde_json::from_value::<LeanList<Pod>>(empty).unwrap().items.unwrap_or_default().is_empty());
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for wrong in [json!({"metadata": "text"}), json!([]), json!({"metadata": {"name": 1}})] {
            assert!(serde_json::from_value::<Lean<Pod>>(wrong).is_err());
        }
    }
}
