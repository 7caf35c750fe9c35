# S3 and KMS at addresses of the network itself, each in subnets that hold nothing else, so that a network policy can name them.
locals {
  endpoints = {
    s3  = { cidr = var.s3_endpoint_cidr, policy = templatefile("${path.module}/policies/endpoint.json", { for part, bucket in aws_s3_bucket.this : part => bucket.id }) }
    kms = { cidr = var.kms_endpoint_cidr, policy = null } # who may use a key is in the key's policy and the role's
  }
  endpoint_subnets = merge([
    for service, endpoint in local.endpoints : {
      for number, zone in var.endpoint_zones : "${service}-${zone}" => { service = service, zone = zone, cidr = cidrsubnet(endpoint.cidr, 2, number) }
    }
  ]...)
}

resource "aws_subnet" "endpoint" {
  for_each          = local.endpoint_subnets
  vpc_id            = var.vpc_id
  availability_zone = each.value.zone
  cidr_block        = each.value.cidr
}

resource "aws_security_group" "endpoint" {
  name_prefix = "${var.name}-endpoints-"
  description = "S3 and KMS from the nodes of the cluster"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "endpoint" {
  security_group_id            = aws_security_group.endpoint.id
  description                  = "HTTPS from the nodes"
  referenced_security_group_id = var.node_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

resource "aws_vpc_endpoint" "this" {
  for_each            = local.endpoints
  vpc_id              = var.vpc_id
  service_name        = "com.amazonaws.${var.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for name, subnet in local.endpoint_subnets : aws_subnet.endpoint[name].id if subnet.service == each.key]
  security_group_ids  = [aws_security_group.endpoint.id]
  policy              = each.value.policy
  dynamic "dns_options" {
    for_each = each.key == "s3" ? [1] : []
    content {
      private_dns_only_for_inbound_resolver_endpoint = false
    }
  }
}
