<?php $cfg = ["pw" => "phpPW-Sd16cv8"];
