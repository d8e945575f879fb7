//! Validation of whole objects with upstream's rules, paths and messages (`pkg/apis/*/validation` of Kubernetes 1.37).
//!
//! Each group of kinds has a file. Kinds without rules of their own are checked for what their schema requires. What needs
//! other objects (quota, allocated addresses) is the API server's to check.

use serde_json::Value;

use crate::registry::{Kind, KindSchema};
use crate::schema::{Schema, Type};

pub use crate::status::{ErrorType, FieldError};

mod access;
mod address;
mod admission;
mod at;
mod autoscaling;
mod batch;
mod certificates;
mod container;
mod core;
mod custom;
mod devices;
mod event;
mod flowcontrol;
mod format;
mod meta;
mod network;
mod node;
mod pod;
mod policy;
mod quota;
mod resources;
mod security;
mod service;
mod storage;
mod trust;
mod volume;
mod workload;

use at::{At, Errors};

/// Validates an object to be created (`old` is `None`) or to replace `old`.
pub fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    meta::object(kind, &At::root(new), old.is_some(), &mut errors);
    if let KindSchema::Custom(schema) = &kind.schema {
        custom::object(schema, new, &mut errors);
        return errors;
    }
    let root = At::root(new);
    let spec = root.field("spec");
    let group = kind.group.as_ref();
    match (group, kind.kind.as_ref()) {
        ("", "Pod") => pod::pod(&root, old.is_some(), &mut errors),
        ("", "PodTemplate") => pod::template(&root.field("template"), &mut errors),
        ("", "Service") => service::service(&root, &mut errors),
        ("", "ConfigMap") => core::config_map(&root, &mut errors),
        ("", "Secret") => core::secret(&root, old, &mut errors),
        ("", "Namespace") if old.is_none() => node::namespace(&root, &mut errors),
        ("", "Namespace" | "ServiceAccount" | "ComponentStatus") => {}
        ("", "Node") => node::node(&root, old, &mut errors),
        ("", "Event") => event::event(&root, old, false, &mut errors),
        ("events.k8s.io", "Event") => event::event(&root, old, true, &mut errors),
        ("", "Endpoints") => network::endpoints(&root, old, &mut errors),
        ("", "ReplicationController") => workload::replication_controller(&spec, &mut errors),
        ("", "PersistentVolume") => storage::persistent_volume(&root, old, &mut errors),
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim(&root, old, &mut errors),
        ("", "ResourceQuota") => quota::resource_quota(&spec, old, &mut errors),
        ("", "LimitRange") => quota::limit_range(&spec, &mut errors),
        ("apps", "Deployment") => workload::deployment(&spec, old, &mut errors),
        ("apps", "ReplicaSet") => workload::replica_set(&spec, old, &mut errors),
        ("apps", "StatefulSet") => workload::stateful_set(&spec, old, &mut errors),
        ("apps", "DaemonSet") => workload::daemon_set(&spec, old, &mut errors),
        ("apps", "ControllerRevision") => workload::controller_revision(&root, old, &mut errors),
        ("batch", "Job") => batch::job(&root, old, &mut errors),
        ("batch", "CronJob") => batch::cron_job(&root, old, &mut errors),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::horizontal_pod_autoscaler(&spec, &mut errors),
        ("policy", "PodDisruptionBudget") => workload::pod_disruption_budget(&spec, &mut errors),
        ("networking.k8s.io", "Ingress") => network::ingress(&root, old, &mut errors),
        ("networking.k8s.io", "IngressClass") => network::ingress_class(&spec, old, &mut errors),
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy(&spec, old, &mut errors),
        ("networking.k8s.io", "IPAddress") => network::ip_address(&spec, old, &mut errors),
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr(&spec, old, &mut errors),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(&root, old, &mut errors),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::role(&root, kind.namespaced, &mut errors),
        ("rbac.authorization.k8s.io", _) => access::binding(&root, kind.namespaced, old, &mut errors),
        ("storage.k8s.io", "StorageClass") => storage::storage_class(&root, old, &mut errors),
        ("storage.k8s.io", "VolumeAttributesClass") => storage::volume_attributes_class(&root, old, &mut errors),
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver(&root, old, &mut errors),
        ("storage.k8s.io", "CSINode") => storage::csi_node(&root, old, &mut errors),
        ("storage.k8s.io", "CSIStorageCapacity") => storage::csi_storage_capacity(&root, old, &mut errors),
        ("storage.k8s.io", "VolumeAttachment") => storage::volume_attachment(&root, old, &mut errors),
        ("storagemigration.k8s.io", "StorageVersionMigration") => core::storage_version_migration(&spec, old, &mut errors),
        ("certificates.k8s.io", "ClusterTrustBundle") => trust::cluster_trust_bundle(&root, old, &mut errors),
        ("certificates.k8s.io", "PodCertificateRequest") => trust::pod_certificate_request(&root, old, &mut errors),
        ("scheduling.k8s.io", "PriorityClass") => core::priority_class(&root, old, &mut errors),
        ("coordination.k8s.io", "Lease") => core::lease(&spec, &mut errors),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => {
            admission::webhook_configuration(&root, true, &mut errors);
        }
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => {
            admission::webhook_configuration(&root, false, &mut errors);
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => policy::validating(&root, &mut errors),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => policy::mutating(&spec, &mut errors),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => policy::binding(&spec, false, &mut errors),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => policy::binding(&spec, true, &mut errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            required(kind.schema(), &root, &mut errors);
            admission::conversion(&spec.field("conversion"), &mut errors);
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            certificates::request(&root, old, certificates::Write::Main, &mut errors);
        }
        ("resource.k8s.io", "ResourceClaim") => devices::claim(&root, old, &mut errors),
        ("resource.k8s.io", "ResourceClaimTemplate") => devices::claim_template(&root, old, &mut errors),
        ("resource.k8s.io", "DeviceClass") => devices::device_class(&spec, old, &mut errors),
        ("resource.k8s.io", "ResourceSlice") => devices::resource_slice(&spec, old, &mut errors),
        ("resource.k8s.io", "DeviceTaintRule") => devices::taint_rule(&spec, old, &mut errors),
        ("node.k8s.io", "RuntimeClass") => core::runtime_class(&root, old, &mut errors),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flowcontrol::flow_schema(&root, &mut errors),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => flowcontrol::priority_level(&root, &mut errors),
        _ => required(kind.schema(), &root, &mut errors),
    }
    errors
}

/// Validates a write through the status subresource.
pub fn validate_status(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let root = At::root(new);
    meta::object(kind, &root, true, &mut errors);
    if let KindSchema::Custom(schema) = &kind.schema {
        custom::object(schema, new, &mut errors);
        return errors;
    }
    let status = root.field("status");
    match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            certificates::request(&root, Some(old), certificates::Write::Status, &mut errors);
        }
        ("flowcontrol.apiserver.k8s.io", _) => flowcontrol::conditions(&root, &mut errors),
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") | ("", "ReplicationController") => {
            workload::status(kind.kind.as_ref(), &status, old, &mut errors);
        }
        ("", "Pod") => pod::status(&root, old, &mut errors),
        ("", "Node") => node::status(&status, true, &mut errors),
        ("", "Namespace") => node::namespace_status(&root, &mut errors),
        ("", "PersistentVolumeClaim") => storage::claim_status(&root, &mut errors),
        ("", "Service") | ("networking.k8s.io", "Ingress") => {
            network::load_balancer_status(&status.field("loadBalancer"), &mut errors);
        }
        ("batch", "Job") => batch::job_status(&root, old, &mut errors),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::status(&status, &mut errors),
        ("policy", "PodDisruptionBudget") => workload::disruption_status(&status, &mut errors),
        ("storage.k8s.io", "VolumeAttachment") => storage::attachment_status(&status, &mut errors),
        ("resource.k8s.io", "ResourceClaim") => devices::claim_status(&root, old, &mut errors),
        ("resource.k8s.io", "DeviceTaintRule") => devices::taint_rule_status(&status, &mut errors),
        ("certificates.k8s.io", "PodCertificateRequest") => {
            trust::pod_certificate_status(&status, old, &mut errors);
        }
        ("", "ResourceQuota") => quota::resource_quota_status(&status, &mut errors),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => policy::status(&status, &mut errors),
        _ => {}
    }
    errors
}

/// Validates a write through the approval subresource of a CertificateSigningRequest.
pub fn validate_approval(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let root = At::root(new);
    meta::object(kind, &root, true, &mut errors);
    certificates::request(&root, Some(old), certificates::Write::Approval, &mut errors);
    errors
}

/// What the schema requires outside status, for kinds without rules of their own.
fn required(schema: &Schema, at: &At<'_>, errors: &mut Errors) {
    for property in schema.properties() {
        let field = at.field(&property.name);
        let at_root = at.path().is_empty() && matches!(property.name.as_ref(), "status" | "metadata" | "apiVersion" | "kind");
        if at_root {
            continue;
        }
        let missing = match property.schema.ty() {
            Type::String => field.text().is_empty(),
            Type::Object | Type::Array | Type::Map => field.is_absent(),
            _ => false,
        };
        if property.required && missing {
            errors.push(FieldError::required(field.path(), ""));
        } else if !field.is_absent() {
            match property.schema.ty() {
                Type::Object => required(&property.schema, &field, errors),
                Type::Array => {
                    if let Some(items) = property.schema.items().filter(|items| items.ty() == Type::Object) {
                        field.items().for_each(|item| required(items, &item, errors));
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
