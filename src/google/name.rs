//! Resource names, as Google's tools print them.
//!
//! Invariant: a name that parsed can stand in the path of a URL as it is. Whether there is such a
//! resource is not known here.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::sync::Arc;

/// The two products, each with an API of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// Memorystore for Redis Cluster: `…/clusters/C`.
    RedisCluster,
    /// Memorystore for Valkey: `…/instances/I`.
    Valkey,
}

impl Product {
    /// What Google calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::RedisCluster => "Memorystore for Redis Cluster",
            Self::Valkey => "Memorystore for Valkey",
        }
    }

    /// Host name of its API, which is also what `gcloud services enable` takes.
    pub fn service(self) -> &'static str {
        match self {
            Self::RedisCluster => "redis.googleapis.com",
            Self::Valkey => "memorystore.googleapis.com",
        }
    }

    /// One resource in words.
    pub fn noun(self) -> &'static str {
        match self {
            Self::RedisCluster => "cluster",
            Self::Valkey => "instance",
        }
    }

    /// The permission to read a resource and its certificates.
    pub fn read_permission(self) -> &'static str {
        match self {
            Self::RedisCluster => "redis.clusters.get",
            Self::Valkey => "memorystore.instances.get",
        }
    }

    /// The smallest predefined role with [`Self::read_permission`].
    pub fn viewer_role(self) -> &'static str {
        match self {
            Self::RedisCluster => "roles/redis.viewer",
            Self::Valkey => "roles/memorystore.viewer",
        }
    }

    /// The role that permits AUTH, and nothing else.
    pub fn connect_role(self) -> &'static str {
        match self {
            Self::RedisCluster => "roles/redis.dbConnectionUser",
            Self::Valkey => "roles/memorystore.dbConnectionUser",
        }
    }

    /// The gcloud command that lists what there is.
    pub fn list_command(self) -> &'static str {
        match self {
            Self::RedisCluster => "gcloud redis clusters list",
            Self::Valkey => "gcloud memorystore instances list",
        }
    }

    fn collection(self) -> &'static str {
        match self {
            Self::RedisCluster => "clusters",
            Self::Valkey => "instances",
        }
    }
}

/// `projects/P/locations/R/clusters/C` or `projects/P/locations/R/instances/I`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourceName {
    product: Product,
    project: Arc<str>,
    location: Arc<str>,
    id: Arc<str>,
}

const SHAPE: &str = "give projects/PROJECT/locations/REGION/clusters/CLUSTER (Memorystore for Redis Cluster) or \
     projects/PROJECT/locations/REGION/instances/INSTANCE (Memorystore for Valkey)";

impl ResourceName {
    /// Reads a resource name, also with a slash or `//SERVICE/` in front, as full resource names
    /// have it.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the setting's name: what is wrong, and the mend.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (service, path) = match text.strip_prefix("//").and_then(|rest| rest.split_once('/')) {
            Some((service, path)) if !service.is_empty() && service != "projects" => {
                (Some(service), path)
            }
            _ => (None, text.trim_start_matches('/')),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let ["projects", project, "locations", location, collection, id] = parts[..] else {
            return Err(format!("'{text}' is not the name of a cluster or instance; {SHAPE}"));
        };
        let product = match collection {
            "clusters" => Product::RedisCluster,
            "instances" => Product::Valkey,
            other => return Err(format!("'{text}' has '{other}' for a kind of resource; {SHAPE}")),
        };
        if let Some(service) = service.filter(|service| *service != product.service()) {
            return Err(wrong_service(text, service, product));
        }
        check(text, "project", project, |c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.' | ':'))?;
        if location == "-" {
            return Err(format!("'{text}' leaves the region open; write its name instead of '-'"));
        }
        check(text, "region", location, |c| matches!(c, 'a'..='z' | '0'..='9' | '-'))?;
        check(text, product.noun(), id, |c| matches!(c, 'a'..='z' | '0'..='9' | '-'))?;
        Ok(Self { product, project: project.into(), location: location.into(), id: id.into() })
    }

    /// Which product it belongs to.
    pub fn product(&self) -> Product {
        self.product
    }

    /// Project ID or number.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The region.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The last part: what the user called the cluster or instance.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Path of the resource in its API.
    pub fn path(&self) -> String {
        format!("/v1/{self}")
    }

    /// Path of the resource's own certificate authority.
    pub fn ca_path(&self) -> String {
        format!("/v1/{self}/certificateAuthority")
    }

    /// Path of the certificate authority that the resources of a region share.
    pub fn shared_ca_path(&self) -> String {
        let Self { project, location, .. } = self;
        format!("/v1/projects/{project}/locations/{location}/sharedRegionalCertificateAuthority")
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { product, project, location, id } = self;
        let collection = product.collection();
        write!(f, "projects/{project}/locations/{location}/{collection}/{id}")
    }
}

fn wrong_service(text: &str, service: &str, product: Product) -> String {
    match (service, product) {
        // The older product has the same words in its names.
        ("redis.googleapis.com", Product::Valkey) => format!(
            "'{text}' is an instance of Memorystore for Redis, which has no IAM authentication; give \
             its HOST:PORT with --no-iam-auth, and --upstream-password-file if it has an AUTH string"
        ),
        _ => format!("'{text}' names the service '{service}'; {SHAPE}"),
    }
}

fn check(text: &str, what: &str, part: &str, allowed: fn(char) -> bool) -> Result<(), String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = part.len() <= 100
        && edge(part.chars().next())
        && edge(part.chars().next_back())
        && part.chars().all(allowed);
    match (good, part) {
        (true, _) => Ok(()),
        (false, "") => Err(format!("'{text}' has no {what}; {SHAPE}")),
        (false, _) => Err(format!(
            "'{text}' has a bad {what} '{part}'; it consists of small letters, digits and hyphens"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_products() {
        let cluster =
            ResourceName::parse("projects/p-1/locations/europe-west6/clusters/c").unwrap();
        assert_eq!(cluster.product(), Product::RedisCluster);
        assert_eq!(
            (cluster.project(), cluster.location(), cluster.id()),
            ("p-1", "europe-west6", "c")
        );
        assert_eq!(cluster.to_string(), "projects/p-1/locations/europe-west6/clusters/c");
        assert_eq!(cluster.path(), "/v1/projects/p-1/locations/europe-west6/clusters/c");
        assert_eq!(
            cluster.ca_path(),
            "/v1/projects/p-1/locations/europe-west6/clusters/c/certificateAuthority"
        );
        assert_eq!(
            cluster.shared_ca_path(),
            "/v1/projects/p-1/locations/europe-west6/sharedRegionalCertificateAuthority"
        );
        let plain = "projects/example.com:p/locations/us-east1/instances/i-9";
        for text in [plain, &format!("/{plain}"), &format!("//memorystore.googleapis.com/{plain}")]
        {
            let instance = ResourceName::parse(text).unwrap();
            assert_eq!(instance.product(), Product::Valkey);
            assert_eq!(instance.to_string(), plain);
        }
        assert_eq!(
            ResourceName::parse("//projects/1/locations/r/clusters/c").unwrap().project(),
            "1"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, says) in [
            ("", "is not the name"),
            ("projects/p", "is not the name"),
            ("projects/p/locations/r/clusters/c/backups/b", "is not the name"),
            ("projects/p/regions/r/clusters/c", "is not the name"),
            ("projects/p/locations/r/nodes/c", "has 'nodes' for a kind"),
            ("projects//locations/r/clusters/c", "has no project"),
            ("projects/p/locations//clusters/c", "has no region"),
            ("projects/p/locations/r/clusters/", "has no cluster"),
            ("projects/p/locations/r/instances/", "has no instance"),
            ("projects/p/locations/-/clusters/c", "leaves the region open"),
            ("projects/../locations/r/clusters/c", "bad project '..'"),
            ("projects/p/locations/r/clusters/C", "bad cluster 'C'"),
            ("projects/p/locations/r/clusters/c?port=1", "bad cluster 'c?port=1'"),
            ("projects/p/locations/r%2f/clusters/c", "bad region"),
            ("projects/p\r\n/locations/r/clusters/c", "bad project"),
            ("//redis.googleapis.com/projects/p/locations/r/instances/i", "no IAM authentication"),
            (
                "//sqladmin.googleapis.com/projects/p/locations/r/clusters/c",
                "the service 'sqladmin",
            ),
        ] {
            let error = ResourceName::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
