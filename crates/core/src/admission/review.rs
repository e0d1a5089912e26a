//! A question of the API server, as far as it decides.

use serde::Deserialize;
use serde_json::Value;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed one.
    Update,
    /// The end of one.
    Delete,
    /// A connection to one.
    Connect,
}

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// The question's own id.
    pub uid: String,
    /// API group; empty for the core group.
    pub group: String,
    /// `pods`, `jobs` …
    pub resource: String,
    /// `binding`, `status` …; empty for none.
    pub sub_resource: String,
    /// What is being done.
    pub operation: Operation,
    /// In this namespace.
    pub namespace: String,
    /// By whom.
    pub user: String,
    /// Who is in these groups.
    pub groups: Vec<String>,
    /// The object as it would be; null where there is none.
    pub object: Value,
    /// As it is; null where there is none.
    pub old_object: Value,
}

#[derive(Deserialize)]
struct Wire {
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    operation: Operation,
    #[serde(default)]
    namespace: String,
    user_info: UserInfo,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    resource: String,
}

#[derive(Deserialize)]
struct UserInfo {
    #[serde(default)]
    username: String,
    #[serde(default)]
    groups: Vec<String>,
}

impl Review {
    /// Reads an `AdmissionReview` of version 1.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let Wire { request } = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        Ok(Self {
            uid: request.uid,
            group: request.resource.group,
            resource: request.resource.resource,
            sub_resource: request.sub_resource,
            operation: request.operation,
            namespace: request.namespace,
            user: request.user_info.username,
            groups: request.user_info.groups,
            object: request.object,
            old_object: request.old_object,
        })
    }

    pub(super) fn is_pod(&self) -> bool {
        self.group.is_empty() && self.resource == "pods"
    }
}
