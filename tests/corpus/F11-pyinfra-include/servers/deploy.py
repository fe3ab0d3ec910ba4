from pyinfra import local

local.include("tasks/base.py")
local.include("tasks/app.py")
