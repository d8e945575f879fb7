//! The built-in kinds of Kubernetes 1.37 that are served by default, one row each.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Column, Kind, KindSchema, NameRule, SelectableField, Storage, Strategy, Subresource, Verbs, columns};
use crate::schema::{Descriptions, Str, definition_for};

const CREATE: Verbs = Verbs::CREATE;
const STATUS: Verbs = Verbs::STATUS;
const STREAM: Verbs = Verbs::CREATE.or(Verbs::GET);
const PROXY: Verbs = Verbs::CREATE.or(Verbs::DELETE).or(Verbs::GET).or(Verbs::PATCH).or(Verbs::UPDATE);

/// A row under construction: an ordinary namespaced kind until told otherwise.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    verbs: Verbs,
    subresources: Vec<Subresource>,
    storage: Option<(&'static str, &'static str)>,
    fields: &'static str,
    strategy: Strategy,
}

fn row(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Row {
    Row {
        group,
        version,
        kind,
        plural,
        short: &[],
        categories: &[],
        namespaced: true,
        verbs: Verbs::ALL,
        subresources: Vec::new(),
        storage: None,
        fields: "",
        strategy: Strategy {
            status: false,
            generation: false,
            graceful_deletion: false,
            create_on_update: false,
            unconditional_update: true,
            orphan_dependents: false,
            name: NameRule::Subdomain,
            virtual_only: false,
            defaults_on_read: false,
        },
    }
}

impl Row {
    fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short = names;
        self
    }

    fn all(self) -> Self {
        self.category(&["all"])
    }

    fn category(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }

    fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    /// A kind that is answered, not stored.
    fn answered(mut self) -> Self {
        self.verbs = CREATE;
        self.strategy.virtual_only = true;
        self
    }

    fn verbs(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self
    }

    fn status(mut self) -> Self {
        self.strategy.status = true;
        let kind = self.kind;
        self.sub("status", kind, STATUS)
    }

    fn scale(self) -> Self {
        self.sub_of("scale", ("autoscaling", "v1"), "Scale", STATUS)
    }

    fn sub(mut self, name: &'static str, kind: &'static str, verbs: Verbs) -> Self {
        self.subresources.push(Subresource { name: name.into(), group_version: None, kind: kind.into(), verbs });
        self
    }

    fn sub_of(mut self, name: &'static str, of: (&'static str, &'static str), kind: &'static str, verbs: Verbs) -> Self {
        let group_version = Some((Cow::Borrowed(of.0), Cow::Borrowed(of.1)));
        self.subresources.push(Subresource { name: name.into(), group_version, kind: kind.into(), verbs });
        self
    }

    fn stored_as(mut self, group: &'static str, version: &'static str) -> Self {
        self.storage = Some((group, version));
        self
    }

    /// Selectable fields: `label=path|path:absent`, separated by blanks; the path defaults to the label.
    fn fields(mut self, fields: &'static str) -> Self {
        self.fields = fields;
        self
    }

    fn generation(mut self) -> Self {
        self.strategy.generation = true;
        self
    }

    fn graceful(mut self) -> Self {
        self.strategy.graceful_deletion = true;
        self
    }

    fn created_by_put(mut self) -> Self {
        self.strategy.create_on_update = true;
        self
    }

    fn conditional(mut self) -> Self {
        self.strategy.unconditional_update = false;
        self
    }

    fn orphans(mut self) -> Self {
        self.strategy.orphan_dependents = true;
        self
    }

    fn named(mut self, rule: NameRule) -> Self {
        self.strategy.name = rule;
        self
    }

    fn build(mut self, descriptions: &Descriptions) -> Arc<Kind> {
        let Some(definition) = definition_for(self.group, self.version, self.kind) else {
            panic!("no schema for {}/{} {}", self.group, self.version, self.kind);
        };
        self.subresources.sort_by(|a, b| a.name.cmp(&b.name));
        let (api_group, version) = self.storage.unwrap_or((self.group, self.version));
        let owned = |names: &'static [&'static str]| names.iter().map(|n| Cow::Borrowed(*n)).collect();
        let columns = columns::of(self.group, self.kind).into_iter().map(|column| Column {
            name: column.name.into(),
            ty: column.ty.into(),
            format: column.format.into(),
            description: columns::describe(&column, definition, descriptions),
            priority: column.priority,
            json_path: Cow::Borrowed(""),
        });
        Arc::new(Kind {
            group: self.group.into(),
            version: self.version.into(),
            kind: self.kind.into(),
            plural: self.plural.into(),
            singular: self.kind.to_ascii_lowercase().into(),
            short_names: owned(self.short),
            categories: owned(self.categories),
            namespaced: self.namespaced,
            verbs: self.verbs,
            subresources: self.subresources,
            storage: Storage {
                group: if api_group.is_empty() { "core".into() } else { api_group.into() },
                resource: self.plural.into(),
                api_group: api_group.into(),
                version: version.into(),
            },
            schema: KindSchema::Builtin(definition),
            fields: self.fields.split_whitespace().map(selectable).collect(),
            columns: columns.collect(),
            strategy: self.strategy,
            custom: false,
        })
    }
}

fn selectable(text: &'static str) -> SelectableField {
    let (text, absent) = text.split_once(':').unwrap_or((text, ""));
    let (label, paths) = text.split_once('=').unwrap_or((text, text));
    let path = |p: &'static str| -> Vec<Str> { p.split('.').map(Cow::Borrowed).collect() };
    SelectableField { label: label.into(), paths: paths.split('|').map(path).collect(), absent: absent.into() }
}

/// All rows, by group as discovery orders groups.
pub(super) fn kinds() -> Vec<Arc<Kind>> {
    let descriptions = Descriptions::load();
    let groups = [
        core(),
        apiregistration(),
        apps(),
        events(),
        authentication(),
        authorization(),
        autoscaling(),
        batch(),
        certificates(),
        networking(),
        policy(),
        rbac(),
        storage(),
        admissionregistration(),
        apiextensions(),
        scheduling(),
        coordination(),
        node(),
        discovery(),
        resource(),
        flowcontrol(),
        storagemigration(),
    ];
    groups.into_iter().flatten().map(|row| row.build(&descriptions)).collect()
}

fn core() -> Vec<Row> {
    let v1 = |kind, plural| row("", "v1", kind, plural);
    let pod = v1("Pod", "pods").short(&["po"]).all().status().generation().graceful();
    vec![
        v1("Binding", "bindings").answered(),
        v1("ComponentStatus", "componentstatuses").short(&["cs"]).cluster().verbs(Verbs::GET.or(Verbs::LIST)),
        v1("ConfigMap", "configmaps").short(&["cm"]),
        v1("Endpoints", "endpoints").short(&["ep"]).created_by_put(),
        v1("Event", "events").short(&["ev"]).created_by_put().fields(
            "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion \
             involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source=source.component|reportingComponent type",
        ),
        v1("LimitRange", "limitranges").short(&["limits"]).created_by_put(),
        v1("Namespace", "namespaces")
            .short(&["ns"])
            .cluster()
            .verbs(Verbs::CREATE.or(Verbs::DELETE).or(Verbs::GET).or(Verbs::LIST).or(Verbs::PATCH).or(Verbs::UPDATE).or(Verbs::WATCH))
            .status()
            .sub("finalize", "Namespace", Verbs::UPDATE)
            .named(NameRule::Label)
            .fields("status.phase"),
        v1("Node", "nodes").short(&["no"]).cluster().status().sub("proxy", "NodeProxyOptions", PROXY).fields("spec.unschedulable:false"),
        v1("PersistentVolumeClaim", "persistentvolumeclaims").short(&["pvc"]).status(),
        v1("PersistentVolume", "persistentvolumes").short(&["pv"]).cluster().status(),
        pod.sub("attach", "PodAttachOptions", STREAM)
            .sub("binding", "Binding", CREATE)
            .sub("ephemeralcontainers", "Pod", STATUS)
            .sub_of("eviction", ("policy", "v1"), "Eviction", CREATE)
            .sub("exec", "PodExecOptions", STREAM)
            .sub("log", "Pod", Verbs::GET)
            .sub("portforward", "PodPortForwardOptions", STREAM)
            .sub("proxy", "PodProxyOptions", PROXY)
            .sub("resize", "Pod", STATUS)
            .fields(
                "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork:false status.phase status.podIP \
                 status.podIPs=status.podIP status.nominatedNodeName",
            ),
        v1("PodTemplate", "podtemplates").generation(),
        v1("ReplicationController", "replicationcontrollers").short(&["rc"]).all().status().scale().generation().orphans().fields("status.replicas:0"),
        v1("ResourceQuota", "resourcequotas").short(&["quota"]).status(),
        v1("Secret", "secrets").fields("type"),
        v1("ServiceAccount", "serviceaccounts").short(&["sa"]).conditional().sub_of("token", ("authentication.k8s.io", "v1"), "TokenRequest", CREATE),
        v1("Service", "services")
            .short(&["svc"])
            .all()
            .status()
            .sub("proxy", "ServiceProxyOptions", PROXY)
            .created_by_put()
            .named(NameRule::Label1035)
            .fields("spec.clusterIP spec.type"),
    ]
}

fn apiregistration() -> Vec<Row> {
    let v1 = |kind, plural| row("apiregistration.k8s.io", "v1", kind, plural);
    vec![
        v1("APIService", "apiservices")
            .cluster()
            .category(&["api-extensions"])
            .status()
            .conditional()
            .named(NameRule::PathSegment),
    ]
}

fn apps() -> Vec<Row> {
    let v1 = |kind, plural| row("apps", "v1", kind, plural);
    vec![
        v1("ControllerRevision", "controllerrevisions"),
        v1("DaemonSet", "daemonsets").short(&["ds"]).all().status().generation(),
        v1("Deployment", "deployments").short(&["deploy"]).all().status().scale().generation(),
        v1("ReplicaSet", "replicasets").short(&["rs"]).all().status().scale().generation().fields("status.replicas:0"),
        v1("StatefulSet", "statefulsets").short(&["sts"]).all().status().scale().generation(),
    ]
}

fn events() -> Vec<Row> {
    vec![row("events.k8s.io", "v1", "Event", "events").short(&["ev"]).created_by_put().stored_as("", "v1").fields(
        "regarding.kind=involvedObject.kind regarding.namespace=involvedObject.namespace regarding.name=involvedObject.name \
         regarding.uid=involvedObject.uid regarding.apiVersion=involvedObject.apiVersion \
         regarding.resourceVersion=involvedObject.resourceVersion regarding.fieldPath=involvedObject.fieldPath \
         reason reportingController=reportingComponent type",
    )]
}

fn authentication() -> Vec<Row> {
    let v1 = |kind, plural| row("authentication.k8s.io", "v1", kind, plural).cluster().answered();
    vec![v1("SelfSubjectReview", "selfsubjectreviews"), v1("TokenReview", "tokenreviews")]
}

fn authorization() -> Vec<Row> {
    let v1 = |kind, plural| row("authorization.k8s.io", "v1", kind, plural).answered();
    vec![
        v1("LocalSubjectAccessReview", "localsubjectaccessreviews"),
        v1("SelfSubjectAccessReview", "selfsubjectaccessreviews").cluster(),
        v1("SelfSubjectRulesReview", "selfsubjectrulesreviews").cluster(),
        v1("SubjectAccessReview", "subjectaccessreviews").cluster(),
    ]
}

fn autoscaling() -> Vec<Row> {
    let hpa = |version| {
        row("autoscaling", version, "HorizontalPodAutoscaler", "horizontalpodautoscalers").short(&["hpa"]).all().status()
    };
    vec![hpa("v2"), hpa("v1").stored_as("autoscaling", "v2")]
}

fn batch() -> Vec<Row> {
    let v1 = |kind, plural| row("batch", "v1", kind, plural).all().status().generation();
    vec![v1("CronJob", "cronjobs").short(&["cj"]), v1("Job", "jobs").orphans().fields("status.successful=status.succeeded:0")]
}

fn certificates() -> Vec<Row> {
    let v1 = |kind, plural| row("certificates.k8s.io", "v1", kind, plural);
    vec![
        v1("CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .cluster()
            .status()
            .sub("approval", "CertificateSigningRequest", STATUS)
            .named(NameRule::PathSegment)
            .fields("spec.signerName"),
        v1("ClusterTrustBundle", "clustertrustbundles").cluster().conditional().named(NameRule::Any).fields("spec.signerName"),
        v1("PodCertificateRequest", "podcertificaterequests")
            .status()
            .conditional()
            .fields("spec.signerName spec.podName spec.nodeName"),
    ]
}

fn networking() -> Vec<Row> {
    let v1 = |kind, plural| row("networking.k8s.io", "v1", kind, plural);
    vec![
        v1("IngressClass", "ingressclasses").cluster().generation(),
        v1("Ingress", "ingresses").short(&["ing"]).status().generation(),
        v1("IPAddress", "ipaddresses").short(&["ip"]).cluster().named(NameRule::IpAddress),
        v1("NetworkPolicy", "networkpolicies").short(&["netpol"]).generation(),
        v1("ServiceCIDR", "servicecidrs").cluster().status(),
    ]
}

fn policy() -> Vec<Row> {
    vec![row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets").short(&["pdb"]).status().generation().conditional()]
}

fn rbac() -> Vec<Row> {
    let v1 = |kind, plural| row("rbac.authorization.k8s.io", "v1", kind, plural).created_by_put().named(NameRule::PathSegment);
    vec![
        v1("ClusterRoleBinding", "clusterrolebindings").cluster(),
        v1("ClusterRole", "clusterroles").cluster(),
        v1("RoleBinding", "rolebindings"),
        v1("Role", "roles"),
    ]
}

fn storage() -> Vec<Row> {
    let v1 = |kind, plural| row("storage.k8s.io", "v1", kind, plural).cluster();
    let csi_storage_capacity = row("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities");
    vec![
        v1("CSIDriver", "csidrivers").generation().conditional(),
        v1("CSINode", "csinodes").conditional(),
        csi_storage_capacity.conditional(),
        v1("StorageClass", "storageclasses").short(&["sc"]),
        v1("VolumeAttachment", "volumeattachments").status().conditional(),
        v1("VolumeAttributesClass", "volumeattributesclasses").short(&["vac"]),
    ]
}

fn admissionregistration() -> Vec<Row> {
    let v1 = |kind, plural| {
        row("admissionregistration.k8s.io", "v1", kind, plural).cluster().category(&["api-extensions"]).conditional()
    };
    vec![
        v1("MutatingAdmissionPolicy", "mutatingadmissionpolicies").generation(),
        v1("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings").generation(),
        v1("MutatingWebhookConfiguration", "mutatingwebhookconfigurations").generation(),
        v1("ValidatingAdmissionPolicy", "validatingadmissionpolicies").status().generation(),
        v1("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings").generation(),
        v1("ValidatingWebhookConfiguration", "validatingwebhookconfigurations").generation(),
    ]
}

fn apiextensions() -> Vec<Row> {
    let crd = row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions");
    vec![crd.short(&["crd", "crds"]).category(&["api-extensions"]).cluster().status().generation().conditional()]
}

fn scheduling() -> Vec<Row> {
    vec![row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").short(&["pc"]).cluster().generation()]
}

fn coordination() -> Vec<Row> {
    vec![row("coordination.k8s.io", "v1", "Lease", "leases").created_by_put().conditional()]
}

fn node() -> Vec<Row> {
    vec![row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").cluster().conditional()]
}

fn discovery() -> Vec<Row> {
    vec![row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").generation()]
}

fn resource() -> Vec<Row> {
    let v1 = |kind, plural| row("resource.k8s.io", "v1", kind, plural);
    vec![
        v1("DeviceClass", "deviceclasses").cluster().generation(),
        v1("DeviceTaintRule", "devicetaintrules").cluster().status().generation(),
        v1("ResourceClaim", "resourceclaims").status(),
        v1("ResourceClaimTemplate", "resourceclaimtemplates"),
        v1("ResourceSlice", "resourceslices").cluster().generation().fields("spec.nodeName spec.driver spec.pool.name"),
    ]
}

fn flowcontrol() -> Vec<Row> {
    let v1 = |kind, plural| row("flowcontrol.apiserver.k8s.io", "v1", kind, plural).cluster().status().generation();
    vec![v1("FlowSchema", "flowschemas"), v1("PriorityLevelConfiguration", "prioritylevelconfigurations")]
}

fn storagemigration() -> Vec<Row> {
    let v1 = |kind, plural| row("storagemigration.k8s.io", "v1", kind, plural).cluster().status();
    vec![v1("StorageVersionMigration", "storageversionmigrations")]
}

#[cfg(test)]
mod tests {
    use crate::registry::{Registry, builtin, lookup};

    #[test]
    fn every_row_is_found_and_unique() {
        let registry = Registry::builtin();
        assert_eq!(registry.kinds().count(), builtin().len());
        for kind in builtin() {
            assert!(registry.lookup(&kind.group, &kind.version, &kind.plural).is_some());
            assert!(!kind.columns.is_empty(), "{}", kind.kind);
            assert!(kind.strategy.status == kind.subresource("status").is_some());
        }
    }

    #[test]
    fn selectable_fields_read_objects() {
        let pods = lookup("", "v1", "pods").expect("pods");
        let pod = serde_json::json!({"spec": {"nodeName": "n1"}, "status": {"podIP": "10.0.0.1"}});
        let value = |label: &str| pods.selectable(label).expect("field").value(&pod).into_owned();
        assert_eq!(value("spec.nodeName"), "n1");
        assert_eq!(value("spec.hostNetwork"), "false");
        assert_eq!(value("status.podIPs"), "10.0.0.1");
        assert_eq!(value("status.phase"), "");
    }
}
