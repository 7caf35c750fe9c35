# The keystore's database, where the keystore is a service and not a directory with SQLite. Amazon makes the administrator's password and
# keeps it in its secrets manager: it is in no file of Terraform's. The roles inside the database are infra/postgresql's.
locals {
  database = length(var.database_subnet_ids) > 0 ? 1 : 0
}

resource "aws_db_subnet_group" "keystore" {
  count      = local.database
  name       = "${var.name}-keystore"
  subnet_ids = var.database_subnet_ids
}

resource "aws_security_group" "keystore" {
  count       = local.database
  name_prefix = "${var.name}-keystore-"
  description = "PostgreSQL from the nodes of the cluster"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "keystore" {
  count                        = local.database
  security_group_id            = aws_security_group.keystore[0].id
  description                  = "PostgreSQL from the nodes"
  referenced_security_group_id = var.node_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_db_parameter_group" "keystore" {
  count       = local.database
  name_prefix = "${var.name}-keystore-"
  family      = "postgres17"
  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_db_instance" "keystore" {
  count                               = local.database
  identifier                          = "${var.name}-keystore"
  engine                              = "postgres"
  engine_version                      = "17"
  instance_class                      = "db.t4g.medium"
  allocated_storage                   = 20
  max_allocated_storage               = 500
  db_name                             = "keystore"
  username                            = "keystore_admin"
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = aws_kms_key.this.arn
  storage_encrypted                   = true
  kms_key_id                          = aws_kms_key.this.arn
  multi_az                            = true
  publicly_accessible                 = false
  db_subnet_group_name                = aws_db_subnet_group.keystore[0].name
  vpc_security_group_ids              = [aws_security_group.keystore[0].id]
  parameter_group_name                = aws_db_parameter_group.keystore[0].name
  auto_minor_version_upgrade          = true
  iam_database_authentication_enabled = true
  # A restored backup brings erased records back until the erasure list is replayed: see docs/keystore.md.
  backup_retention_period         = 14
  copy_tags_to_snapshot           = true
  deletion_protection             = true
  skip_final_snapshot             = false
  final_snapshot_identifier       = "${var.name}-keystore-last"
  enabled_cloudwatch_logs_exports = ["postgresql"]
}
