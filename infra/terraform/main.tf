# What keyanon needs of Amazon Web Services: three buckets, two keys, four roles, the database of a keystore, and a way to S3 that is not
# the internet. It stands beside an EKS cluster that is there already, whose Pod Identity agent gives the roles to the service accounts of
# infra/kubernetes.
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { project = "keyanon" }
  }
}

data "aws_caller_identity" "this" {}

locals {
  buckets = {
    photographs = "${var.name}-photographs"
    output      = "${var.name}-output"
    inbox       = "${var.name}-inbox"
  }
  # Kubernetes service account of each part: namespace, name.
  accounts = {
    anonymize = ["keyanon-anonymize", "keyanon-anonymize"]
    ingest    = ["keyanon-keystore", "keyanon-ingest"]
    recover   = ["keyanon-recover", "keyanon-recover"]
    keystore  = ["keyanon-keystore", "keyanon-keystore"]
  }
}
