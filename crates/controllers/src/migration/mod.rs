//! Migrates stored objects to the form in which the server would store them today (StorageVersionMigration, KEP-4192): after the
//! storage version of a custom resource changed, or the key that seals Secrets.
//!
//! A migration notes the revision at which it began. Every object that is not newer is applied to itself with an empty
//! configuration, which names its uid and revision: whoever was faster has brought it into today's form, and we lose the race.
//! The server stores such a write only when the stored form differs. So a migration may be begun again at any point, and what it
//! has done already is newer than its revision then.
//!
//! Migrations of one resource run one after the other, the oldest first. Upstream divides this among three controllers; the
//! conditions that they write are the same.

mod definition;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use caravel_client::{Informer, WorkQueue, status_code};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::common::discovery::{Resource, discover};
use crate::common::*;
use crate::context::Context;
use plan::{Step, Verdict, ended, is_due, judge, plan, revision, started};

/// The controller's name, which is also that of the field manager of its writes.
pub const NAME: &str = "storage-version-migrator-controller";
/// Who writes into definitions (upstream's name).
const RUNNER: &str = "migration-runner-controller";
/// Objects listed in one call, and written at a time.
const PAGE: u32 = 500;
const AT_A_TIME: usize = 16;
/// A resource that is not there may be one that was defined just now: for so long it is looked for.
const PATIENCE: i64 = 60;
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long the cache is waited for when it is behind.
const BEHIND: Duration = Duration::from_millis(100);

/// Runs the controller.
///
/// # Errors
/// Never by itself.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let migrations: Informer<StorageVersionMigration> = context.cluster.informer();
    let queue = WorkQueue::new();
    let wake = queue.clone();
    migrations.on_change(move |c| wake.add(resource_of(c.object())));
    migrations.synced().await;
    let migrator = Migrator { client: context.client(), now: context.config.clock };
    let reconcile = |resource: String| {
        let (migrator, migrations) = (&migrator, &migrations);
        async move {
            let of = |one: &Arc<StorageVersionMigration>| resource_of(one) == resource && !deleting(&**one);
            let all = migrations.list().into_iter().filter(of).map(|one| (*one).clone()).collect();
            migrator.reconcile(all).await
        }
    };
    context.work(queue, 5, reconcile).await;
    Ok(())
}

/// `plural.group` of what is migrated: also the name of its definition, if it has one.
fn resource_of(one: &StorageVersionMigration) -> String {
    let resource = &one.spec.iter().map(|s| &s.resource).next();
    resource.map_or_else(String::new, |r| format!("{}.{}", r.resource, r.group))
}

struct Migrator {
    client: kube::Client,
    now: fn() -> Timestamp,
}

impl Migrator {
    /// Brings the migrations of one resource to their end, one after the other.
    async fn reconcile(&self, mut all: Vec<StorageVersionMigration>) -> Outcome {
        let api = self.migrations();
        loop {
            let (at, starts) = match plan(&all) {
                Step::Rest => return Ok(None),
                Step::Start(at) => (at, true),
                Step::Move(at) => (at, false),
            };
            // The cache may be behind, and the definition is written before the migration: it would tell of one that has ended.
            let live = api.get_opt(name(&all[at])).await?;
            if live.is_none_or(|l| l.metadata.resource_version != all[at].metadata.resource_version) {
                return Ok(Some(BEHIND));
            }
            let Some(resource) = self.find(&all[at]).await? else {
                let age = (self.now)().duration_since(created(&all[at])).as_secs();
                if age < PATIENCE {
                    return Ok(Some(LOOK_AGAIN));
                }
                all[at] = self.end(&all[at], Some("resource does not exist in discovery")).await?;
                continue;
            };
            all[at] =
                if starts { self.start(&all[at], &resource).await? } else { self.migrate(&all[at], &resource).await? };
        }
    }

    /// The resource that a migration is about, if it is served now.
    async fn find(&self, one: &StorageVersionMigration) -> anyhow::Result<Option<Resource>> {
        let Some(wanted) = one.spec.as_ref().map(|s| &s.resource) else { return Ok(None) };
        let found = discover(&self.client).await?;
        let is = |r: &Resource| r.api.group == wanted.group && r.api.plural == wanted.resource;
        if let Some(resource) = found.resources.into_iter().find(is) {
            return Ok(Some(resource));
        }
        let prefix = format!("{}/", wanted.group);
        match found.failed.into_iter().find(|failed| failed.starts_with(&prefix)) {
            Some(failed) => anyhow::bail!("{} cannot be looked for: {failed}", wanted.resource),
            None => Ok(None),
        }
    }

    async fn start(
        &self,
        one: &StorageVersionMigration,
        resource: &Resource,
    ) -> anyhow::Result<StorageVersionMigration> {
        if !(resource.can("list") && resource.can("patch")) {
            return self.end(one, Some("its objects cannot be listed and patched")).await;
        }
        let now = self.text_now();
        self.define(resource, |definition| definition::running(definition, name(one), &now)).await?;
        // After the definition was read: what is written later is written by it.
        let listed = resource.objects(&self.client, "").list_metadata(&ListParams::default().limit(1)).await?;
        let revision = listed.metadata.resource_version.filter(|r| !r.is_empty());
        let revision = revision.with_context(|| format!("a list of {} has no revision", resource.display()))?;
        self.write(&started(one, &revision, (self.now)())).await
    }

    async fn migrate(
        &self,
        one: &StorageVersionMigration,
        resource: &Resource,
    ) -> anyhow::Result<StorageVersionMigration> {
        let refused = self.rewrite_all(resource, revision(one)).await?;
        let now = self.text_now();
        self.define(resource, |definition| definition::finished(definition, refused.is_none(), &now)).await?;
        self.end(one, refused.as_deref()).await
    }

    /// Writes every object again that is not newer than `reach`; the reason when the server refuses one.
    async fn rewrite_all(&self, resource: &Resource, reach: &str) -> anyhow::Result<Option<String>> {
        let api = resource.objects(&self.client, "");
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list_metadata(&params).await?;
            let mut due = vec![];
            for item in page.items {
                match is_due(item.metadata.resource_version.as_deref().unwrap_or_default(), reach) {
                    Ok(true) => due.push(item.metadata),
                    Ok(false) => {}
                    Err(why) => return Ok(Some(why)),
                }
            }
            let mut writes = stream::iter(due).map(|meta| self.rewrite(resource, meta)).buffer_unordered(AT_A_TIME);
            let mut later = Ok(());
            while let Some(written) = writes.next().await {
                match written {
                    Ok(None) => {}
                    Ok(refused) => return Ok(refused),
                    // One that has to wait does not hold up the others of its page.
                    Err(error) => later = later.and(Err(error)),
                }
            }
            later?;
            match page.metadata.continue_.filter(|c| !c.is_empty()) {
                Some(next) => params = params.continue_token(&next),
                None => return Ok(None),
            }
        }
    }

    async fn rewrite(&self, resource: &Resource, meta: ObjectMeta) -> anyhow::Result<Option<String>> {
        let name = meta.name.unwrap_or_default();
        let api = resource.objects(&self.client, meta.namespace.as_deref().unwrap_or_default());
        // With both, an object that was changed, deleted or made anew is a conflict, and is never created again.
        let same = json!({
            "apiVersion": resource.api.api_version, "kind": resource.api.kind,
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        });
        let Err(error) = api.patch_metadata(&name, &PatchParams::apply(NAME), &Patch::Apply(&same)).await else {
            return Ok(None);
        };
        match judge(status_code(&error)) {
            Verdict::Done => Ok(None),
            Verdict::Refused => Ok(Some(message_of(&error))),
            Verdict::Later => Err(error).with_context(|| format!("{} {name} could not be written", resource.display())),
        }
    }

    /// Changes the status of the resource's definition, if it has one and it is to be changed.
    async fn define(&self, resource: &Resource, next: impl Fn(&Value) -> Option<Value>) -> anyhow::Result<()> {
        let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let kind = ApiResource::from_gvk_with_plural(&gvk, "customresourcedefinitions");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let name = resource.display();
        let Some(definition) = api.get_opt(&name).await? else { return Ok(()) };
        let Some(next) = next(&serde_json::to_value(&definition)?) else { return Ok(()) };
        let by = PostParams { field_manager: Some(RUNNER.to_owned()), ..PostParams::default() };
        let next: DynamicObject = serde_json::from_value(next)?;
        api.replace_subresource("status", &name, &by, &next).await?;
        Ok(())
    }

    async fn end(
        &self,
        one: &StorageVersionMigration,
        failure: Option<&str>,
    ) -> anyhow::Result<StorageVersionMigration> {
        self.write(&ended(one, failure, (self.now)())).await
    }

    async fn write(&self, next: &StorageVersionMigration) -> anyhow::Result<StorageVersionMigration> {
        Ok(put_status(&self.migrations(), next).await?)
    }

    fn migrations(&self) -> Api<StorageVersionMigration> {
        Api::all(self.client.clone())
    }

    fn text_now(&self) -> String {
        (self.now)().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}
