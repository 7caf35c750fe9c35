variable "name" {
  description = "What the names of all buckets begin with; bucket names are unique in the world."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{2,40}$", var.name))
    error_message = "Lower-case letters, digits and dashes, 3 to 41 of them."
  }
}

variable "region" {
  description = "Where all of it is, as eu-central-1."
  type        = string
}

variable "cluster_name" {
  description = "The EKS cluster whose pods use the roles; it has the add-on eks-pod-identity-agent."
  type        = string
}

variable "vpc_id" {
  description = "The cluster's network."
  type        = string
}

variable "s3_endpoint_cidr" {
  description = "A free range of the network (/24) for the S3 endpoint alone: the one address range that anonymizing pods reach (infra/kubernetes/network.yaml)."
  type        = string
  default     = "10.0.250.0/24"
}

variable "kms_endpoint_cidr" {
  description = "Another one for the KMS endpoint: the keystore's pods reach it."
  type        = string
  default     = "10.0.251.0/24"
}

variable "endpoint_zones" {
  description = "Availability zones of the endpoints: those of the cluster's nodes, four at most."
  type        = list(string)
  validation {
    condition     = length(var.endpoint_zones) >= 1 && length(var.endpoint_zones) <= 4
    error_message = "One to four zones."
  }
}

variable "node_security_group_id" {
  description = "The security group of the cluster's nodes."
  type        = string
}

variable "database_subnet_ids" {
  description = "Private subnets of two zones at least, for the keystore's database. Empty: no database (a keystore in SQLite needs none)."
  type        = list(string)
  default     = []
}

variable "keep_shards_days" {
  description = "How long sealed shards can not be destroyed by anybody, also when they were taken in or deleted: what a keystore can be rebuilt from. Erasure of a subject does not reach them: retire ingest keys within it."
  type        = number
  default     = 30
}
