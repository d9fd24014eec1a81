//! The etcd backend: many API servers over one etcd (3.4 or newer).
//!
//! Each server keeps the whole data in its own [`crate::Index`], fed by one etcd watch, so that reads and watches cost etcd nothing.
//! A read of [`At::Latest`] asks etcd for its newest revision and waits until the index has come that far; all reads that
//! arrive while one such question is under way share the next. When etcd cannot be reached, [`At::Cached`] reads and watches go on.

mod codec;
mod feed;
mod lease;
mod txn;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Client, CompactionOptions, ConnectOptions, GetOptions, Identity, TlsOptions};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use self::lease::Leases;
use crate::types::check_writes;
use crate::{At, Committed, Error, Found, HistoryLimits, Index, Page, Revision, Stats, Store, Watch, Write};

/// The longest wait for an answer of etcd.
const TIMEOUT: Duration = Duration::from_secs(10);

/// TLS towards etcd; all in PEM.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authority that signed etcd's certificate.
    pub ca: Vec<u8>,
    /// Our certificate and its key, when etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in etcd's certificate, when it is not that of the address.
    pub domain: Option<String>,
}

/// How to reach an etcd.
#[derive(Clone, Debug)]
pub struct Options {
    /// URLs of its members: `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// What goes before every key there; ends in `/`.
    pub prefix: String,
    /// For `https` endpoints.
    pub tls: Option<Tls>,
    /// User and password, when etcd's authentication is on.
    pub user: Option<(String, String)>,
    /// How much history is kept in memory.
    pub history: HistoryLimits,
    /// How often etcd's own history is compacted to what it was one such time ago; `None` leaves that to somebody else.
    pub compact_every: Option<Duration>,
}

impl Options {
    /// The defaults for some endpoints.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/caravel/".into(),
            tls: None,
            user: None,
            history: HistoryLimits::default(),
            compact_every: Some(Duration::from_secs(300)),
        }
    }
}

type Barrier = Shared<BoxFuture<'static, Result<Revision, Error>>>;

/// A store in etcd. Dropping it ends its tasks.
pub struct Etcd {
    client: Client,
    prefix: String,
    index: Arc<Index>,
    leases: Leases,
    /// The question for the newest revision that has not been asked yet; whoever comes now may share it.
    next: Arc<Mutex<Option<Barrier>>>,
    /// Held while such a question is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn unavailable(detail: impl Into<String>) -> Error {
    Error::Unavailable { detail: detail.into() }
}

/// Awaits an answer of etcd, not for ever, and puts its failures into our terms.
async fn call<T>(answer: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(translate(&error)),
        Err(_) => Err(unavailable(format!("etcd did not answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn translate(error: &etcd_client::Error) -> Error {
    let text = match error {
        etcd_client::Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    if text.contains("database space exceeded") {
        return Error::Full { path: "etcd".into() };
    }
    unavailable(format!("etcd: {text}"))
}

impl Etcd {
    /// Connects, reads everything under the prefix, and begins to follow.
    ///
    /// # Errors
    /// [`Error::Config`] for options that make no sense, [`Error::Unavailable`] when etcd does not answer.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let config = |detail: &str| Error::Config { detail: detail.to_owned() };
        if options.endpoints.is_empty() {
            return Err(config("no etcd endpoint was given; give URLs like http://127.0.0.1:2379"));
        }
        if !options.prefix.ends_with('/') {
            return Err(config("the prefix of keys in etcd must end in '/'"));
        }
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(5))
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some((name, password)) = &options.user {
            connect = connect.with_user(name, password);
        }
        if let Some(tls) = &options.tls {
            let mut made = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
            if let Some((certificate, key)) = &tls.identity {
                made = made.identity(Identity::from_pem(certificate, key));
            }
            if let Some(domain) = &tls.domain {
                made = made.domain_name(domain);
            }
            connect = connect.with_tls(made);
        }
        let client = call(Client::connect(&options.endpoints, Some(connect))).await?;
        let index = Arc::new(Index::new(options.history));
        let revision = feed::fetch_all(&client, &options.prefix, |entry| index.load(entry)).await?;
        index.start(revision);
        let mut tasks = vec![tokio::spawn(feed::follow(client.clone(), options.prefix.clone(), index.clone()))];
        if let Some(every) = options.compact_every {
            tasks.push(tokio::spawn(compact_regularly(client.clone(), index.clone(), every)));
        }
        Ok(Self {
            client,
            prefix: options.prefix,
            index,
            leases: Leases::default(),
            next: Arc::default(),
            turn: Arc::default(),
            tasks,
        })
    }

    /// The newest revision of etcd as of some time after this call.
    fn barrier(&self) -> Barrier {
        let mut next = self.next.lock();
        if let Some(waiting) = &*next {
            return waiting.clone();
        }
        let (client, turn, slot) = (self.client.clone(), self.turn.clone(), self.next.clone());
        // A key that is never written: only the revision in the header of the answer matters.
        let key = format!("{}-", self.prefix);
        let made = async move {
            let _turn = turn.lock().await;
            slot.lock().take();
            let options = GetOptions::new().with_count_only();
            let answer = call(client.kv_client().get(key, Some(options))).await?;
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            Ok(revision.max(0) as Revision)
        }
        .boxed()
        .shared();
        *next = Some(made.clone());
        made
    }

    async fn reach(&self, revision: Revision) -> Result<(), Error> {
        if self.index.revision() >= revision {
            return Ok(());
        }
        let mut follow = self.index.follow();
        match tokio::time::timeout(TIMEOUT, follow.wait_for(|newest| *newest >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(unavailable(format!("etcd's watch did not bring revision {revision} in time"))),
        }
    }

    async fn settle(&self, at: At) -> Result<Option<Revision>, Error> {
        let caught_up = match at {
            At::Latest => true,
            // Perhaps it exists and the watch is late: etcd knows.
            At::Exact(revision) => revision > self.index.revision(),
            At::Cached | At::NotOlder(_) => false,
        };
        if caught_up {
            let newest = self.barrier().await?;
            self.reach(newest).await?;
        }
        self.index.settle(at).await
    }
}

async fn compact_regularly(client: Client, index: Arc<Index>, every: Duration) {
    let mut mark = index.revision();
    loop {
        tokio::time::sleep(every).await;
        let newest = index.revision();
        if mark < newest {
            compact(&client, mark).await.unwrap_or_else(|error| tracing::warn!(%error, "cannot compact etcd"));
            mark = newest;
        }
    }
}

/// Compacts etcd; that another server did so already is fine.
async fn compact(client: &Client, revision: Revision) -> Result<(), Error> {
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    match call(client.kv_client().compact(revision, None::<CompactionOptions>)).await {
        Err(Error::Unavailable { detail }) if detail.contains("has been compacted") => Ok(()),
        other => other.map(|_| ()),
    }
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a str, at: At) -> BoxFuture<'a, Result<Found, Error>> {
        async move {
            let exact = self.settle(at).await?;
            self.index.get(key, exact)
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: At,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        async move {
            let exact = self.settle(at).await?;
            self.index.list(prefix, exact, start_after, limit)
        }
        .boxed()
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, Error>> {
        async move {
            check_writes(&writes)?;
            let mut leases = Vec::with_capacity(writes.len());
            for write in &writes {
                leases.push(match write.change {
                    crate::Change::Put { ttl: Some(ttl), .. } => self.leases.get(&self.client, ttl).await?,
                    _ => 0,
                });
            }
            let request = txn::build(&self.prefix, &writes, &leases);
            let mut kv = self.client.kv_client().max_decoding_message_size(feed::MAX_MESSAGE);
            let response = call(kv.txn(request)).await?;
            let mut done = txn::outcome(&self.prefix, &writes, &response)?;
            self.reach(done.revision).await?;
            // Share the bytes of the index where they are the same.
            for entry in done.entries.iter_mut().flatten() {
                if let Some(shared) = self.index.current(&entry.key).filter(|e| e.revision == entry.revision) {
                    *entry = shared;
                }
            }
            Ok(done)
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.index.watch(prefix, after)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            compact(&self.client, revision).await?;
            self.index.forget(revision);
            Ok(())
        }
        .boxed()
    }

    fn revision(&self) -> Revision {
        self.index.revision()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move { self.barrier().await.map(|_| ()) }.boxed()
    }

    fn stats(&self) -> Stats {
        self.index.stats()
    }
}
