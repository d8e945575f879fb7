//! Creating and deleting pods on behalf of their owners, and telling so (`pkg/controller/controller_utils.go`).

use std::{future::Future, sync::Arc};

use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use pharos_api::names;
use pharos_client::{Key, Recorder, Regarding, is_not_found, status_of};

use crate::{
    error::{During as _, Result},
    owners,
};

/// The most pods that one sync creates or deletes (upstream's `BurstReplicas`).
pub(crate) const BURST: usize = 500;

/// Creates and deletes pods as one controller. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
}

/// A pod made from a template; its name is left to the API server.
pub(crate) fn pod_from_template(template: &PodTemplateSpec, owner: &OwnerReference, namespace: &str) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let prefix = format!("{}-", owner.name);
    // A name that is too long or odd with its hyphen may do without it.
    let prefix = if names::dns1123_subdomain(&format!("{prefix}x")).is_empty() { prefix } else { owner.name.clone() };
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Whether a create failed because its namespace is going away, which is no news to anybody.
pub(crate) fn namespace_is_terminating(error: &kube::Error) -> bool {
    status_of(error)
        .is_some_and(|status| status.details.iter().flat_map(|d| &d.causes).any(|cause| cause.reason == "NamespaceTerminating"))
}

impl PodControl {
    /// Creates a pod and tells its owner.
    pub(crate) async fn create(&self, regarding: &Regarding, pod: &Pod) -> Result<Pod> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &regarding.namespace);
        match api.create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.recorder.normal(regarding, "SuccessfulCreate", format!("Created pod: {}", owners::name(&created)));
                Ok(created)
            }
            Err(error) => {
                if !namespace_is_terminating(&error) {
                    let message = status_of(&error).map_or_else(|| error.to_string(), |s| s.message.clone());
                    self.recorder.warning(regarding, "FailedCreate", format!("Error creating: {message}"));
                }
                Err(error).during("create pod for", &format!("{}/{}", regarding.namespace, regarding.name))
            }
        }
    }

    /// Deletes a pod and tells its owner. One that is gone already is no error.
    pub(crate) async fn delete(&self, regarding: &Regarding, name: &str) -> Result<bool> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &regarding.namespace);
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {
                self.recorder.normal(regarding, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(true)
            }
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => {
                let message = status_of(&error).map_or_else(|| error.to_string(), |s| s.message.clone());
                self.recorder.warning(regarding, "FailedDelete", format!("Error deleting: {message}"));
                Err(error).during("delete pod", &Key::new(regarding.namespace.as_str(), name))
            }
        }
    }

    /// Deletes several pods at once. `failed` is told of each that could not be. Returns how many are deleted or were gone
    /// already, and the first error.
    pub(crate) async fn delete_all(
        &self,
        regarding: &Regarding,
        pods: &[Arc<Pod>],
        failed: impl Fn(&Pod),
    ) -> (usize, Result<()>) {
        let results = join_all(pods.iter().map(|pod| self.delete(regarding, owners::name(&**pod)))).await;
        let (mut done, mut first) = (0, Ok(()));
        for (pod, result) in pods.iter().zip(results) {
            match result {
                Ok(true) => done += 1,
                // No event of it will come.
                Ok(false) => {
                    failed(pod);
                    done += 1;
                }
                Err(error) => {
                    failed(pod);
                    if first.is_ok() {
                        first = Err(error);
                    }
                }
            }
        }
        (done, first)
    }
}

/// Does something `count` times in batches of 1, 2, 4…, and stops after the first batch with a failure: what fails for one
/// pod (a quota, an admission rule) fails for all. Returns how many succeeded.
pub(crate) async fn slow_start<F, Fut, T>(count: usize, act: F) -> (usize, Result<()>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let (mut done, mut batch) = (0, 1);
    let mut next = 0;
    while next < count {
        let size = batch.min(count - next);
        let results = join_all((next..next + size).map(&act)).await;
        next += size;
        let mut failure = None;
        for result in results {
            match result {
                Ok(_) => done += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return (done, Err(error));
        }
        batch *= 2;
    }
    (done, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Error;

    #[tokio::test]
    async fn slow_start_stops_at_the_first_bad_batch() {
        let calls = AtomicUsize::new(0);
        let (done, result) = slow_start(100, |i| {
            calls.fetch_add(1, Ordering::SeqCst);
            async move { if i == 4 { Err(Error::refused("create", &"pod", "quota")) } else { Ok(()) } }
        })
        .await;
        assert!(result.is_err());
        assert_eq!((done, calls.into_inner()), (6, 7));
        assert_eq!(slow_start(0, |_| async { Ok(()) }).await.0, 0);
    }

    #[test]
    fn a_pod_carries_its_template_and_owner() {
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some([("a".to_owned(), "b".to_owned())].into()), ..ObjectMeta::default() }),
            spec: None,
        };
        let owner = OwnerReference { name: "web".into(), ..OwnerReference::default() };
        let pod = pod_from_template(&template, &owner, "default");
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(pod.metadata.labels, Some([("a".to_owned(), "b".to_owned())].into()));
    }
}
