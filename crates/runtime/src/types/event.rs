//! What happens to containers, as it happens.

/// Something a node should look at. Events are hints: they are never the only way to learn a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first item of every stream, and again whenever events may have been missed (the runtime was
    /// restarted, or the reader was too slow): list everything.
    Resync,
    /// A container or sandbox started.
    Started {
        /// Container or sandbox.
        id: String,
    },
    /// A container or sandbox ended. Delivered after the runtime's own status says so, so that a reader that asks
    /// for the status now sees it.
    Exited {
        /// Container or sandbox.
        id: String,
        /// Exit code; 128 + signal when a signal ended it.
        exit_code: u32,
        /// When, ns.
        exited_at: i64,
    },
    /// The kernel killed a process of the container for want of memory. The container itself may live on.
    Oom {
        /// Container.
        id: String,
    },
}

/// A stream of [`Event`]s that ends only with the runtime handle.
pub type EventStream = std::pin::Pin<Box<dyn futures::Stream<Item = Event> + Send>>;
