"""What tests share that start commands, as users do: from a small model to two hosts.

`workshop` puts a model and documents on disk. `commands` runs a command to its end, `running` watches one with all its
children. `launched_pool` keeps a launcher's ranks, on which `training` runs launch/train.py again and again, and
`plain_users` what users already have. `launch_copy` puts one of `programs/` as train.py beside the scripts of launch/;
`host_scripts` starts these on the two hosts of `hosts`. `browser` opens pages.
"""
