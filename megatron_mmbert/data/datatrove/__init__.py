"""Pipeline steps for datatrove that write and read token stores; it must be installed (the extra ``datatrove``)."""
